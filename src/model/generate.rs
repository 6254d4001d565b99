//! Prediction: control cells in, perturbed cells out (SCALE v1, eq. 37).

use super::Model;
use super::condition::Tokens;
use crate::config::Space;
use crate::params::Params;
use crate::rng::Rng;
use crate::tape::Tape;
use crate::tensor::Tensor;

impl Model {
    /// Predicts B sets of N cells from x0 `[B, N, G]`, `effect` `[B, G]` for a shifted start, T tokens per set and one stream of
    /// start noise per set. `steps` = 1 takes the endpoint from t = 0; K takes K Euler steps. Returns Dec(Z1^) `[B, N, G]` on the
    /// network's scale, where the weights are. Sets do not see each other.
    ///
    /// # Panics
    /// If `steps` is 0, a shifted start has no `effect`, or shapes differ from these.
    pub fn generate(
        &self,
        params: &Params,
        x0: &Tensor,
        effect: Option<&Tensor>,
        tokens: &Tokens,
        steps: usize,
        starts: &[Rng],
    ) -> Tensor {
        let [b, _, _] = x0.dims("generate");
        assert_eq!(starts.len(), b, "generate: one stream a set");
        assert!(steps > 0, "generate: no steps would decode the start");
        let flow = &self.config().flow;
        let mut t = Tape::off().on(params.gpu());
        let p = params.bind(&mut t);
        let x0 = t.constant(x0.clone());
        let moved = self.moved(&mut t, &p, x0, effect);
        let from = moved.unwrap_or_else(|| self.encode(&mut t, &p, x0));
        // Each set has its own stream, so that its noise does not depend on its place in the batch.
        let streams: Vec<_> = starts.iter().map(|&stream| (stream, 0)).collect();
        let mut z = t.flow_start(from, flow.start, flow.mask, &streams);
        for k in 0..steps {
            let times = vec![k as f32 / steps as f32; b];
            let next = t.scope(format_args!("step.{k}"), |t| {
                let answer = t.scope("flow", |t| self.flow.forward(t, &p, z, &times, tokens));
                // u / K, with u = (Z1^ - Z_t) / (1 - t) if the head predicts Z1^: the last step ends at Z1^ itself.
                let (ahead, share) = match flow.prediction {
                    Space::X if k + 1 == steps => return answer,
                    Space::X => (t.sub(answer, z), 1.0 / (steps - k) as f32),
                    Space::V => (answer, 1.0 / steps as f32),
                };
                let step = t.scale(ahead, share);
                t.add(z, step)
            });
            t.forget(z);
            z = next;
        }
        let decoded = self.decode(&mut t, &p, z);
        t.value(decoded).clone()
    }

    /// Dec(Enc(x)) of sets of cells `[B, N, G]`, where the weights are: what the decoder makes of the cells themselves.
    pub fn reconstruct(&self, params: &Params, x: &Tensor) -> Tensor {
        let mut t = Tape::off().on(params.gpu());
        let p = params.bind(&mut t);
        let x = t.constant(x.clone());
        let z = self.encode(&mut t, &p, x);
        let decoded = self.decode(&mut t, &p, z);
        t.value(decoded).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::Statistics;
    use crate::model::condition::{Vocabulary, three};
    use crate::params::Table;

    fn model(prediction: &str) -> (Model, Table) {
        let set =
            format!("encoder.kind=mlp flow.width=16 flow.heads=1 flow.ffn=24 flow.prediction={prediction}");
        let set: Vec<String> = set.split(' ').map(String::from).collect();
        let config = Config::load(Some("tiny"), None, &set).expect("a good config");
        let vocabulary = Vocabulary { cell_types: 2, perturbations: 2, batches: 1, features: None };
        Model::new(&config, &vocabulary, Statistics { mean: vec![0.1; 12], std: vec![0.1; 12] })
    }

    #[test]
    fn several_steps_are_eulers() {
        let x = Tensor::new(&[1, 3, 12], (0..36).map(|i| 0.3 * Rng::new(1).uniform(i)).collect());
        let (tokens, steps) = (three(&[[0, 1, 0]]), 3);
        for prediction in ["x", "v"] {
            let (model, table) = model(prediction);
            let weights = table.draw(Rng::new(2));
            let params = Params::new(table, weights);
            let mut t = Tape::off();
            let p = params.bind(&mut t);
            let x0 = t.constant(x.clone());
            let start = model.encode(&mut t, &p, x0);
            let mut z = t.value(start).data().to_vec();
            for k in 0..steps {
                let time = k as f32 / steps as f32;
                let here = t.constant(Tensor::new(&[1, 3, 16], z.clone()));
                let answer = model.flow.forward(&mut t, &p, here, &[time], &tokens);
                for (z, y) in z.iter_mut().zip(t.value(answer).data()) {
                    let velocity = if prediction == "x" { (y - *z) / (1.0 - time) } else { *y };
                    *z += velocity / steps as f32;
                }
            }
            let end = t.constant(Tensor::new(&[1, 3, 16], z));
            let told = model.decode(&mut t, &p, end);
            let made = model.generate(&params, &x, None, &tokens, steps, &[Rng::new(0)]);
            for (a, b) in made.data().iter().zip(t.value(told).data()) {
                assert!((a - b).abs() < 1e-5, "{prediction}: {a} and {b}");
            }
        }
    }
}
