//! Sinusoidal features of the flow's time (Vaswani et al. 2017, section 3.5, with time in place of position).
//!
//! ```text
//!   forward    y[b] = [cos(1000 t_b f_i), sin(1000 t_b f_i)],  f_i = 10^(-4 i / 128),  i < 128          no backward: t is data
//!   tensors    y [B, 256]
//!   reference  the loop below, in f64: the argument reaches 1000, where f32 loses four digits of the angle
//! ```

use crate::gpu::{Buffer, Grid, args};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Frequencies; each gives a cosine and a sine.
const FREQUENCIES: usize = 128;

impl Tape {
    /// Features of one time per set, each in [0, 1], to `[B, 256]`.
    pub fn time(&mut self, times: &[f32]) -> Var {
        let shape = [times.len(), 2 * FREQUENCIES];
        if let Some(gpu) = self.gpu().cloned() {
            let y = Tensor::on(&gpu, "time features", &shape, gpu.real());
            launch(&y, &gpu.upload("times", times));
            return self.constant(y);
        }
        let mut y = vec![0.0; times.len() * 2 * FREQUENCIES];
        for (row, &t) in y.chunks_exact_mut(2 * FREQUENCIES).zip(times) {
            for i in 0..FREQUENCIES {
                let frequency = 10f64.powf(-4.0 * i as f64 / FREQUENCIES as f64);
                let (sine, cosine) = (1000.0 * f64::from(t) * frequency).sin_cos();
                row[i] = cosine as f32;
                row[FREQUENCIES + i] = sine as f32;
            }
        }
        self.constant(Tensor::new(&shape, y))
    }
}

fn launch(y: &Tensor, times: &Buffer) {
    let grid = Grid::new(y.rows(), FREQUENCIES as u32);
    // SAFETY: one row of y per time, with a cosine and a sine per thread.
    unsafe { y.device().launch("time", "time_forward", grid, &args![y, times]) };
}
