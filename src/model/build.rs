//! How weights are created: names, shapes and first values.

use crate::params::{DrawnPart, Init, Param, Table, Vars};
use crate::tape::{Tape, Var};

/// Adds weights to the table under a prefix.
#[derive(Debug)]
pub struct Build<'a> {
    table: &'a mut Table,
    prefix: String,
}

impl<'a> Build<'a> {
    /// Starts a model's table.
    pub fn new(table: &'a mut Table) -> Self {
        Build { table, prefix: String::new() }
    }

    /// The same table, one name deeper: `flow` -> `flow.blocks.3`.
    pub fn within(&mut self, name: &str) -> Build<'_> {
        Build { prefix: format!("{}{name}.", self.prefix), table: self.table }
    }

    fn add(&mut self, name: &str, shape: &[usize], init: Init, decay: bool) -> Param {
        self.table.add(&format!("{}{name}", self.prefix), shape, init, decay)
    }

    /// A matrix `[out, in]`, N(0, 1/in).
    pub fn matrix(&mut self, name: &str, out: usize, width: usize) -> Param {
        self.add(name, &[out, width], Init::Normal((width as f32).powf(-0.5)), true)
    }

    /// A matrix that ends a residual branch of a stack of `layers` blocks: N(0, 1/in) / sqrt(2 layers).
    pub fn branch_end(&mut self, name: &str, out: usize, width: usize, layers: usize) -> Param {
        self.add(name, &[out, width], Init::Normal(branch_std(width, layers)), true)
    }

    /// Matrices `[out, in]` one above the other, each drawn under its own name as [`Build::matrix`] would.
    pub fn stacked<const N: usize>(&mut self, name: &str, width: usize, parts: [(&str, usize); N]) -> Param {
        let std = (width as f32).powf(-0.5);
        let pieces = parts.map(|(part, out)| self.piece(part, out, std)).to_vec();
        let out = parts.iter().map(|part| part.1).sum();
        self.add(name, &[out, width], Init::Above(pieces), true)
    }

    /// Matrices `[out, in]` side by side, each drawn under its own name as [`Build::branch_end`] would.
    pub fn branch_ends<const N: usize>(
        &mut self,
        name: &str,
        out: usize,
        parts: [(&str, usize); N],
        layers: usize,
    ) -> Param {
        let pieces = parts.map(|(part, width)| self.piece(part, width, branch_std(width, layers))).to_vec();
        let width = parts.iter().map(|part| part.1).sum();
        self.add(name, &[out, width], Init::Beside(pieces), true)
    }

    fn piece(&self, name: &str, len: usize, std: f32) -> DrawnPart {
        DrawnPart { name: format!("{}{name}", self.prefix), len, std }
    }

    /// Any other shape, N(0, std^2).
    pub fn normal(&mut self, name: &str, shape: &[usize], std: f32, decay: bool) -> Param {
        self.add(name, shape, Init::Normal(std), decay)
    }

    /// Zeros; not decayed.
    pub fn bias(&mut self, name: &str, width: usize) -> Param {
        self.add(name, &[width], Init::Constant(0.0), false)
    }

    /// A bias that starts at these values; not decayed.
    pub fn bias_at(&mut self, name: &str, values: Vec<f32>) -> Param {
        self.add(name, &[values.len()], Init::Values(values), false)
    }

    /// Ones; not decayed.
    pub fn gain(&mut self, name: &str, width: usize) -> Param {
        self.add(name, &[width], Init::Constant(1.0), false)
    }

    /// A linear map with bias: `name.w`, `name.b`.
    pub fn linear(&mut self, name: &str, out: usize, width: usize) -> Linear {
        let mut inner = self.within(name);
        Linear { w: inner.matrix("w", out, width), b: Some(inner.bias("b", out)) }
    }

    /// A linear map without bias: `name.w`.
    pub fn linear_unbiased(&mut self, name: &str, out: usize, width: usize) -> Linear {
        Linear { w: self.within(name).matrix("w", out, width), b: None }
    }

    /// Linear-SiLU-Linear with biases: `name.0`, `name.1`.
    pub fn mlp(&mut self, name: &str, out: usize, hidden: usize, width: usize) -> Mlp {
        let mut inner = self.within(name);
        Mlp { up: inner.linear("0", hidden, width), down: inner.linear("1", out, hidden) }
    }
}

/// Standard deviation of a matrix that ends a residual branch.
fn branch_std(width: usize, layers: usize) -> f32 {
    (width as f32).powf(-0.5) / (2.0 * layers as f32).sqrt()
}

/// y = x w^T + b.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub w: Param,
    /// `[out]`.
    pub b: Option<Param>,
}

impl Linear {
    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, x: Var) -> Var {
        t.linear(x, p[self.w], self.b.map(|b| p[b]))
    }
}

/// Linear-SiLU-Linear.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// in -> hidden.
    pub up: Linear,
    /// hidden -> out.
    pub down: Linear,
}

impl Mlp {
    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, x: Var) -> Var {
        let hidden = self.up.forward(t, p, x);
        let hidden = t.activation(hidden, crate::config::Activation::Silu);
        self.down.forward(t, p, hidden)
    }
}
