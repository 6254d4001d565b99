//! The flow between populations: start, path, error and endpoint (SCALE v1, eq. 18-30 and section 4.2).
//!
//! ```text
//!   start      z_s = z0 · e · e + z0 / 2, then 0 with probability `mask`      e_i = stream.at(0).normal(first + i), e ~ N(0, 1)
//!   path       z_t = (1 - t) z_s + t z1                                      masked where stream.at(1).uniform(first + i) < mask
//!   endpoint   of an answer y: prediction x: y · v, displacement: z_s + y · v, jit: z_t + c y          c = max(1 - t, 0.05)
//!   loss       L = mean of e^2, e the answer less the target in the space of the loss:
//!
//!              prediction  loss    displacement, a = z_s, c = 1 · jit, a = z_t, c = max(1 - t, 0.05)
//!              x           x       e = y - z1'
//!              x           v       e = (y - a) / c - (z1' - a') / c
//!              v           x       e = a + c y - z1'
//!              v           v       e = y - (z1' - a') / c
//!
//!   backward   every e is linear: its gradient is 2 e / (B N D) times the factor of each input. The primed inputs are the target;
//!              they carry gradient only if `target_gradient` is set.                                   all =
//!   tensors    z0, zs, z1, zt, y and their gradients [B, N, D]     t [B]     L [1]
//!   bound by   memory: the loss moves at most 4 numbers per element forward, 7 backward
//! ```

use crate::config::{Conversion, Space, Start, Variant};
use crate::gpu::{Buffer, Real};
use crate::ops::blocks;
use crate::rng::Rng;
use crate::tape::{Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};

mod device;

impl Tape {
    /// Where the path starts: z0 `[B, N, D]` to `[B, N, D]`. `mask` is the probability that an entry is set to 0. Element i of set
    /// b takes number `first + i` of the set's stream. [`Start::Shifted`] is [`Start::Control`] here: z0 already encodes the
    /// shifted cells.
    pub fn flow_start(&mut self, z0: Var, start: Start, mask: f32, streams: &[(Rng, u64)]) -> Var {
        let share = match start {
            Start::Control | Start::Shifted => 1.0,
            Start::Gaussian => 0.0,
            Start::Mixed => 0.5,
        };
        if share == 1.0 && mask == 0.0 {
            return z0;
        }
        let start = StartMap::new(self.value(z0), share, mask, streams);
        let y = start.forward(self.value(z0));
        if share == 0.0 {
            return self.constant(y);
        }
        self.record("flow", &[z0], y, move |dy| vec![Some(start.backward(dy))])
    }

    /// The point at time t between zs and z1, both `[B, N, D]`; one time per set.
    pub fn flow_path(&mut self, zs: Var, z1: Var, times: &[f32]) -> Var {
        let before = beside(self.value(zs), times.iter().map(|t| 1.0 - t).collect());
        let times = beside(self.value(z1), times.to_vec());
        let y = combine(&[(self.value(zs), &before), (self.value(z1), &times)]);
        let (s_needs, z1_needs) = (self.needs(zs), self.needs(z1));
        self.record("flow", &[zs, z1], y, move |dy| {
            vec![s_needs.then(|| combine(&[(dy, &before)])), z1_needs.then(|| combine(&[(dy, &times)]))]
        })
    }

    /// Mean squared error of the answer y in the space of the loss: y, zs, z1, zt `[B, N, D]`, one time per set, to `[1]`.
    pub fn flow_loss(&mut self, y: Var, zs: Var, z1: Var, zt: Var, times: &[f32], variant: Variant) -> Var {
        let anchor = if variant.conversion == Conversion::Jit { zt } else { zs };
        let inputs = [y, anchor, z1];
        let factors = Factors::of(times, variant);
        let value = factors.sum();
        let gradient = if variant.target_gradient { value.clone() } else { factors.answer };
        let values = inputs.map(|x| self.value(x).clone());
        let needs = inputs.map(|x| self.needs(x));
        let given = values.each_ref().map(|x| (x, values[0].shape()));
        if let Some(gpu) = agree("flow loss", &given, &[]) {
            let error = device::SquaredError::new(gpu, &values, [&value, &gradient]);
            let loss = error.mean_square();
            return self.record("flow", &inputs, loss, move |d| error.gradients(d, needs).into());
        }
        let [value, gradient] = [value, gradient].map(|f| f.map(|f| beside(&values[0], f)));
        let terms: Vec<_> = values.iter().zip(&value).filter(|(_, factor)| any(factor.data())).collect();
        let error = combine(&terms);
        let loss = mean_square(error.data());
        self.record("flow", &inputs, Tensor::scalar(loss), move |d| {
            let scale = 2.0 * d.item() / error.len() as f32;
            let by = |factor: &Tensor| {
                let factor: Vec<f32> = factor.data().iter().map(|f| f * scale).collect();
                any(&factor).then(|| combine(&[(&error, &beside(&error, factor))]))
            };
            gradient.iter().zip(needs).map(|(factor, needs)| if needs { by(factor) } else { None }).collect()
        })
    }

    /// The endpoint implied by the answer y: y, zs, zt `[B, N, D]`, one time per set, to `[B, N, D]`.
    pub fn flow_endpoint(&mut self, y: Var, zs: Var, zt: Var, times: &[f32], variant: Variant) -> Var {
        if variant.prediction == Space::X {
            return y;
        }
        let anchor = if variant.conversion == Conversion::Jit { zt } else { zs };
        let c = beside(self.value(y), times.iter().map(|&t| speed(t, variant.conversion)).collect());
        let ones = beside(self.value(anchor), vec![1.0; times.len()]);
        let z = combine(&[(self.value(anchor), &ones), (self.value(y), &c)]);
        let y_needs = self.needs(y);
        self.record("flow", &[anchor, y], z, move |dy| {
            vec![Some(dy.clone()), y_needs.then(|| combine(&[(dy, &c)]))]
        })
    }
}

/// One number per set, on the host or device of the tensor that they multiply.
fn beside(x: &Tensor, numbers: Vec<f32>) -> Tensor {
    let numbers = Tensor::new(&[numbers.len()], numbers);
    match x.gpu() {
        Some(gpu) => numbers.to_gpu(gpu, "times of the flow", Real::F32),
        None => numbers,
    }
}

/// False if all factors are zero: then their input drops out of the sum.
fn any(factors: &[f32]) -> bool {
    factors.iter().any(|&f| f != 0.0)
}

/// How the start is made from z0 and random numbers.
struct StartMap {
    /// Share of z0; if it is 1 there is no noise.
    share: f32,
    mask: f32,
    /// One per set.
    streams: Streams,
}

/// Where a set's random numbers come from.
struct Stream {
    noise: Rng,
    /// Decides which entries are masked.
    holes: Rng,
    /// Index of the set's first number in both.
    first: u64,
}

/// The streams, on the host or device of the tensor that they are drawn for.
enum Streams {
    Host(Vec<Stream>),
    Device(Buffer),
}

impl StartMap {
    fn new(z: &Tensor, share: f32, mask: f32, streams: &[(Rng, u64)]) -> StartMap {
        let [sets, _, _] = z.dims("flow start");
        assert_eq!(streams.len(), sets, "flow start: one stream a set");
        let stream = |&(rng, first): &(Rng, u64)| Stream { noise: rng.at(0), holes: rng.at(1), first };
        let streams: Vec<Stream> = streams.iter().map(stream).collect();
        let streams = match agree("flow start", &[(z, z.shape())], &[]) {
            Some(gpu) => Streams::Device(device::upload(gpu, &streams)),
            None => Streams::Host(streams),
        };
        StartMap { share, mask, streams }
    }

    /// The start `[B, N, D]`.
    fn forward(&self, z: &Tensor) -> Tensor {
        self.scaled(z, self.share != 1.0)
    }

    /// dz `[B, N, D]`: the start without its noise is linear.
    fn backward(&self, dy: &Tensor) -> Tensor {
        self.scaled(dy, false)
    }

    fn scaled(&self, z: &Tensor, noisy: bool) -> Tensor {
        let streams = match &self.streams {
            Streams::Device(streams) => return device::start(z, streams, self.share, noisy, self.mask),
            Streams::Host(streams) => streams,
        };
        let size = z.len() / streams.len();
        let y = blocks::make_within(streams.len(), size, blocks::GRAIN, |set, first, y| {
            let Stream { noise, holes, first: number } = streams[set];
            let z = &z.data()[set * size + first..];
            for ((i, y), z) in (number + first as u64..).zip(y).zip(z) {
                if self.mask == 0.0 || holes.uniform(i) >= self.mask {
                    let e = if noisy { noise.normal(i) } else { 0.0 };
                    *y = e + self.share * z;
                }
            }
        });
        Tensor::new(z.shape(), y)
    }
}

/// By how much a velocity moves the endpoint.
fn speed(t: f32, conversion: Conversion) -> f32 {
    match conversion {
        Conversion::Displacement => 1.0,
        Conversion::Jit => (1.0 - t).max(0.05),
    }
}

/// What y, the anchor (z_s or z_t) and z1 are multiplied by in the error; one number per set.
struct Factors {
    /// Through the answer.
    answer: [Vec<f32>; 3],
    /// Through the target.
    target: [Vec<f32>; 3],
}

impl Factors {
    fn of(times: &[f32], variant: Variant) -> Factors {
        let c: Vec<f32> = times.iter().map(|&t| speed(t, variant.conversion)).collect();
        let each = |f: fn(f32) -> f32| c.iter().map(|&c| f(c)).collect::<Vec<f32>>();
        let (zero, one) = (each(|_| 0.0), each(|_| 1.0));
        let answer = match (variant.prediction, variant.loss) {
            (Space::X, Space::X) | (Space::V, Space::V) => [one, zero.clone(), zero.clone()],
            (Space::X, Space::V) => [each(|c| 1.0 / c), each(|c| -1.0 / c), zero.clone()],
            (Space::V, Space::X) => [c.clone(), one, zero.clone()],
        };
        let target = match variant.loss {
            Space::X => [zero.clone(), zero, each(|_| -1.0)],
            Space::V => [zero, each(|c| 1.0 / c), each(|c| -1.0 / c)],
        };
        Factors { answer, target }
    }

    fn sum(&self) -> [Vec<f32>; 3] {
        let add = |i: usize| self.answer[i].iter().zip(&self.target[i]).map(|(a, t)| a + t).collect();
        [add(0), add(1), add(2)]
    }
}

/// Sum of one or two tensors `[B, N, D]` (on the host also of more), each times its set's factor `[B]`.
fn combine(terms: &[(&Tensor, &Tensor)]) -> Tensor {
    let (first, factors) = *terms.first().expect("flow: at least one term");
    let [sets, rows, width] = first.dims("flow");
    let reals: Vec<Shaped> = terms.iter().map(|&(tensor, _)| (tensor, first.shape())).collect();
    let of_sets = [sets];
    let singles: Vec<Shaped> = terms.iter().map(|&(_, factors)| (factors, &of_sets[..])).collect();
    if agree("flow", &reals, &singles).is_some() {
        return device::combine(terms);
    }
    let size = rows * width;
    let y = blocks::make(first.len(), size, |b, block| {
        let factor = factors.data()[b];
        block.iter_mut().zip(&first.data()[b * size..]).for_each(|(y, x)| *y = factor * x);
        for (tensor, factors) in &terms[1..] {
            let factor = factors.data()[b];
            let xs = &tensor.data()[b * size..];
            block.iter_mut().zip(xs).for_each(|(y, x)| *y = factor.mul_add(*x, *y));
        }
    });
    Tensor::new(first.shape(), y)
}

fn mean_square(x: &[f32]) -> f32 {
    let parts = blocks::map(x.len().div_ceil(blocks::GRAIN), |i| {
        let block = &x[i * blocks::GRAIN..x.len().min((i + 1) * blocks::GRAIN)];
        block.chunks(128).map(|piece| f64::from(crate::ops::vector::dot(piece, piece))).sum::<f64>()
    });
    (parts.iter().sum::<f64>() / x.len() as f64) as f32
}

/// The definition, in plain f64.
pub mod reference {
    use crate::config::{Conversion, Space, Variant};

    /// One element's answer and target side, in the order of the formulas above.
    #[derive(Clone, Copy, Debug)]
    pub struct Point {
        /// The network's answer.
        pub y: f64,
        /// Start.
        pub zs: f64,
        /// End.
        pub z1: f64,
        /// Point on the path.
        pub zt: f64,
        /// Time in [0, 1].
        pub t: f64,
    }

    /// The velocity from z_s or z_t to an endpoint.
    fn velocity(end: f64, p: Point, conversion: Conversion) -> f64 {
        match conversion {
            Conversion::Displacement => end - p.zs,
            Conversion::Jit => (end - p.zt) / (1.0 - p.t).max(0.05),
        }
    }

    /// The endpoint implied by the answer.
    pub fn endpoint(p: Point, variant: Variant) -> f64 {
        match (variant.prediction, variant.conversion) {
            (Space::X, _) => p.y,
            (Space::V, Conversion::Displacement) => p.zs + p.y,
            (Space::V, Conversion::Jit) => p.zt + (1.0 - p.t).max(0.05) * p.y,
        }
    }

    /// Answer less target. The target is taken from `fixed`, which equals `p` unless the gradient is to stop at the target.
    pub fn error(p: Point, fixed: Point, variant: Variant) -> f64 {
        match (variant.prediction, variant.loss) {
            (_, Space::X) => endpoint(p, variant) - fixed.z1,
            (Space::X, Space::V) => {
                velocity(p.y, p, variant.conversion) - velocity(fixed.z1, fixed, variant.conversion)
            }
            (Space::V, Space::V) => p.y - velocity(fixed.z1, fixed, variant.conversion),
        }
    }
}
