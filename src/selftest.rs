//! Every op on this machine's device, against its plain reference.

mod case;
mod table;

pub use case::{Case, Run, Values, Verdict, error, wide};
pub use table::table;
