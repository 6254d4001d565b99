//! What `predict` and `baseline` tell of the files that they wrote.

use std::path::PathBuf;

use crate::error::counted;

/// The files, and what they hold.
pub(super) struct Written {
    /// The file of predicted cells.
    pub out: PathBuf,
    pub populations: usize,
    /// Predicted cells.
    pub cells: usize,
    /// Control cells written with them.
    pub control_cells: usize,
    /// What predicted them.
    pub by: String,
    /// The file of measured cells.
    pub real_out: Option<PathBuf>,
    /// Its cells, control cells among them.
    pub measured_cells: Option<usize>,
}

impl Written {
    /// A line for each file.
    pub fn print(&self) {
        let cells = counted(self.cells, "predicted cell");
        let populations = counted(self.populations, "population");
        let controls = counted(self.control_cells, "control cell");
        println!("{}: {cells} of {populations}, {controls}; by {}", self.out.display(), self.by);
        if let (Some(path), Some(measured)) = (&self.real_out, self.measured_cells) {
            let controls = measured - self.cells;
            let cells = counted(measured, "measured cell");
            println!("{}: {cells}, {controls} of them control cells", path.display());
        }
    }
}
