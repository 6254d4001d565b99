//! One op a file: record on the tape, dispatch to the machine, plain reference that judges both.
