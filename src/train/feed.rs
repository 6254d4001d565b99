//! From a batch of sparse rows to what a step reads.

use crate::data::effects::Effects;
use crate::data::loader::Batch;
use crate::model::losses::Examples;
use crate::tensor::Tensor;

/// Makes the examples of a step.
pub struct Feed {
    /// True if the start is shifted by mean effects.
    shift: bool,
}

impl Feed {
    /// `shift`: whether the model wants mean effects.
    pub fn new(shift: bool) -> Feed {
        Feed { shift }
    }

    /// The batch as dense tensors, with the mean effects where the start is shifted by them.
    pub fn examples(&mut self, batch: &Batch, effects: &Effects) -> Examples {
        let (b, n, g) = (batch.sets, batch.cells, batch.genes);
        let mut dense = vec![0.0; 2 * b * n * g];
        batch.rows.dense(g, &mut dense);
        let effect = self.shift.then(|| {
            let rows = batch.conditions.iter().flat_map(|&[c, p, _]| effects.elsewhere(c, p, g));
            Tensor::new(&[b, g], rows.collect())
        });
        Examples::new(Tensor::new(&[2 * b, n, g], dense), effect, &batch.conditions)
    }
}
