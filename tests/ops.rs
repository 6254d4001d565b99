//! Ops: one row in the table, every check. The plain reference is held to central differences, the tuned path to the reference,
//! and both to the same bits under any number of threads.

mod harness;
mod stories;
mod table;
