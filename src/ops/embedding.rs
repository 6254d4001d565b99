//! Rows of a table by number: one-hot times matrix (SCALE v1, eq. 31).
//!
//! ```text
//!   forward    y[b,c]     = table[id[b], c]
//!   backward   dtable[v,c] = sum over b with id[b] = v of dy[b,c]         =, zero elsewhere
//!   tensors    table, dtable [V, C]     y, dy [B, C]     dtable f32 on a device too
//!   repeatable yes: rows are added in the order of b
//!   reference  the loops below
//! ```

use crate::gpu::{Buffer, Grid, Real, args};
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// Rows `ids` of table `[V, C]`, to `[B, C]`.
    ///
    /// # Panics
    /// If an id is not that of a row.
    pub fn embedding(&mut self, table: Var, ids: &[u32]) -> Var {
        let rows = self.value(table);
        let [entries, width] = rows.dims("embedding");
        for &id in ids {
            assert!((id as usize) < entries, "embedding: row {id} of table [{entries}, {width}]");
        }
        let shape = [ids.len(), width];
        if let Some(gpu) = agree("embedding", &[(rows, rows.shape())], &[]) {
            let ids = gpu.upload("row numbers of an embedding", ids);
            let y = Tensor::on(gpu, "embedding y", &shape, rows.real());
            launch_forward(&y, rows, &ids);
            return self.record("embedding", &[table], y, move |dy| {
                let dtable = Tensor::on(dy.device(), "embedding dtable", &[entries, width], Real::F32);
                launch_backward(&dtable, dy, &ids);
                vec![Some(dtable)]
            });
        }
        let row = |&id: &u32| &rows.data()[id as usize * width..][..width];
        let y = Tensor::new(&shape, ids.iter().flat_map(row).copied().collect());
        let ids = ids.to_vec();
        self.record("embedding", &[table], y, move |dy| {
            let mut dtable = vec![0.0; entries * width];
            for (&id, dy) in ids.iter().zip(dy.data().chunks_exact(width)) {
                dtable[id as usize * width..][..width].iter_mut().zip(dy).for_each(|(t, d)| *t += d);
            }
            vec![Some(Tensor::new(&[entries, width], dtable))]
        })
    }
}

fn launch_forward(y: &Tensor, table: &Tensor, ids: &Buffer) {
    let args = args![y, table, ids, y.width()];
    let grid = Grid::plane(y.rows(), y.width().div_ceil(256), 256);
    // SAFETY: one row of y per id, each id a row of the table; both have one width.
    unsafe { y.device().launch("embedding", "embedding_forward", grid, &args) };
}

fn launch_backward(dtable: &Tensor, dy: &Tensor, ids: &Buffer) {
    let args = args![dtable, dy, ids, dy.rows(), dy.width()];
    let grid = Grid::plane(dtable.rows(), dy.width().div_ceil(256), 256);
    // SAFETY: one id per row of dy, which the tape gives the shape and the place of y; dtable and dy have one width.
    unsafe { dtable.device().launch("embedding", "embedding_backward", grid, &args) };
}
