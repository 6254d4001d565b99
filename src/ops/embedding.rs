//! Rows of a table by number: one-hot times matrix (SCALE v1, eq. 31).
//!
//!   forward    y[b,c]     = table[id[b], c]
//!   backward   dtable[v,c] = sum over b with id[b] = v of dy[b,c]         =, zero elsewhere
//!   tensors    table, dtable [V, C]     y, dy [B, C]
//!   repeatable yes: rows are added in the order of b
//!   reference  the loops below

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Rows `ids` of table `[V, C]`, to `[B, C]`.
    pub fn embedding(&mut self, table: Var, ids: &[u32]) -> Var {
        let [entries, width] = self.value(table).dims("embedding");
        let rows = self.value(table).data();
        let mut y = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            assert!((id as usize) < entries, "embedding: row {id} of table [{entries}, {width}]");
            y.extend_from_slice(&rows[id as usize * width..][..width]);
        }
        let ids = ids.to_vec();
        self.record(&[table], Tensor::new(&[ids.len(), width], y), move |dy| {
            let mut dtable = vec![0.0; entries * width];
            for (&id, dy) in ids.iter().zip(dy.data().chunks_exact(width)) {
                dtable[id as usize * width..][..width].iter_mut().zip(dy).for_each(|(t, d)| *t += d);
            }
            vec![Some(Tensor::new(&[entries, width], dtable))]
        })
    }
}
