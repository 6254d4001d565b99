//! Turns a batch into what a step reads: dense cells on the network's scale.
//!
//! On the host the rows are laid out here. A GPU lays them out itself, from rows sent with each step or, if all cells of the data
//! directory fit next to the model, from its own copy of them: a step then sends 16 bytes per cell.

use crate::data::effects::Effects;
use crate::data::loader::{Batch, Carry, Counts, Rows};
use crate::data::shard::{Data, Scale};
use crate::gpu::{Buffer, Gpu, Post};
use crate::model::losses::Examples;
use crate::ops::gather::{Cells, Scaling, Span, gather};
use crate::tensor::Tensor;

/// Makes the examples of a step.
pub struct Feed {
    source: Source,
    /// True if the start is shifted by mean effects.
    shift: bool,
}

brief!(Feed, |feed| shift: feed.shift);

enum Source {
    Host,
    Streamed(Post),
    Resident(Post, Own),
}

/// All cells of a data directory on a device.
struct Own {
    stored: usize,
    genes: Buffer,
    values: Buffer,
    wide: bool,
    /// Where each cell's numbers are.
    spans: Vec<Span>,
}

impl Own {
    fn cells(&self) -> Cells<'_> {
        let Own { stored, genes, values, wide, .. } = self;
        Cells { stored: *stored, genes, values, wide: *wide }
    }
}

/// Cells may take 1 / SHARE of a GPU's free memory: most of a model's memory is activations, which are not there yet.
const SHARE: u64 = 4;

/// Stored numbers sent at a time.
const PIECE: usize = 8 << 20;

impl Feed {
    /// Chooses where the cells of `data` are laid out. `shift`: whether the model wants mean effects.
    pub fn new(data: &Data, gpu: Option<&Gpu>, shift: bool) -> Feed {
        let source = match gpu {
            None => Source::Host,
            Some(gpu) => {
                let stored = data.stored();
                let bytes = stored * if data.narrow() { 4 } else { 6 };
                if bytes > gpu.memory().0 / SHARE {
                    return Feed::streamed(gpu, shift);
                }
                resident(data, gpu, stored as usize)
            }
        };
        Feed { source, shift }
    }

    /// Sends each step's rows to a GPU that cannot hold all cells.
    pub fn streamed(gpu: &Gpu, shift: bool) -> Feed {
        Feed { source: Source::Streamed(Post::new(gpu)), shift }
    }

    /// What the loader must provide.
    pub fn carry(&self) -> Carry {
        match self.source {
            Source::Host | Source::Streamed(_) => Carry::Rows,
            Source::Resident(..) => Carry::Numbers,
        }
    }

    /// Where the cells are, in words; `None` on the host.
    pub fn describe(&self) -> Option<String> {
        match &self.source {
            Source::Host => None,
            Source::Streamed(post) => Some(format!("cells are sent to {} with each step", post.gpu().name())),
            Source::Resident(post, own) => {
                let mib = (own.genes.bytes() + own.values.bytes()) as f64 / (1 << 20) as f64;
                Some(format!(
                    "all {} cells are kept on {} ({mib:.1} MiB)",
                    own.spans.len(),
                    post.gpu().name()
                ))
            }
        }
    }

    /// The batch as dense tensors, with the mean effects if the start is shifted by them.
    ///
    /// # Panics
    /// If it is a batch of other data, or carries less than [`Feed::carry`] says.
    pub fn examples(&mut self, batch: &Batch, effects: &Effects) -> Examples {
        let (b, n, g) = (batch.sets, batch.cells, batch.genes);
        let cells = match &mut self.source {
            Source::Host => {
                let mut dense = vec![0.0; 2 * b * n * g];
                batch.rows.dense(&mut dense);
                Tensor::new(&[2 * b * n, g], dense)
            }
            Source::Streamed(post) => streamed(post, &batch.rows, g),
            Source::Resident(post, own) => {
                let spans: Vec<Span> = batch.numbers.iter().map(|&cell| own.spans[cell as usize]).collect();
                post.send([("positions of a step's cells", bytemuck::cast_slice(&spans))], |[sent]| {
                    gather(&own.cells(), sent, spans.len(), g, row_scaling(&batch.rows))
                })
            }
        };
        let effect = self.shift.then(|| {
            let rows = batch.conditions.iter().flat_map(|&[c, p, _]| effects.elsewhere(c, p));
            Tensor::new(&[b, g], rows.collect())
        });
        let examples = Examples::new(cells.reshape(&[2 * b, n, g]), effect, &batch.conditions);
        Examples { first: batch.first, ..examples }
    }
}

/// Sends a step's own rows and lays them out.
fn streamed(post: &mut Post, rows: &Rows, genes: usize) -> Tensor {
    let ((values, wide), spans) = (stored_bytes(&rows.values), row_spans(rows));
    let parts = [
        ("positions of a step's cells", bytemuck::cast_slice(&spans)),
        ("a step's values", values),
        ("a step's gene ids", bytemuck::cast_slice(&rows.genes)),
    ];
    post.send(parts, |[sent, values, genes_of]| {
        let cells = Cells { stored: rows.genes.len(), genes: genes_of, values, wide };
        gather(&cells, sent, spans.len(), genes, row_scaling(rows))
    })
}

/// Sends all cells, piece by piece.
fn resident(data: &Data, gpu: &Gpu, stored: usize) -> Source {
    let wide = !data.narrow();
    let mut own = Own {
        stored,
        genes: gpu.buffer("the gene ids of all cells", stored * 2),
        values: gpu.buffer("the values of all cells", stored * if wide { 4 } else { 2 }),
        wide,
        spans: Vec::with_capacity(data.cells() as usize),
    };
    let (mut at, mut piece) = (0, Rows::empty(data));
    let mut from = 0;
    while from < data.cells() {
        let mut numbers = Vec::new();
        let mut held = 0;
        while from < data.cells() && held < PIECE {
            let row = data.row(from);
            let (begin, count) = ((at + held) as u64, row.genes.len());
            own.spans.push(Span { begin, count: count as u32, scale: data.row_scale(row.library) });
            held += count;
            numbers.push(from);
            from += 1;
        }
        piece.refill(data, &numbers);
        send(&own, at, &piece);
        at += held;
    }
    Source::Resident(Post::new(gpu), own)
}

/// Writes rows into the arrays, from number `at` onwards.
fn send(own: &Own, at: usize, rows: &Rows) {
    let (values, wide) = stored_bytes(&rows.values);
    own.genes.write(2 * at, &rows.genes);
    own.values.write(if wide { 4 } else { 2 } * at, values);
}

/// Stored values as they are sent, and whether they are f32.
pub(crate) fn stored_bytes(values: &Counts) -> (&[u8], bool) {
    match values {
        Counts::U16(values) => (bytemuck::cast_slice(values), false),
        Counts::F32(values) => (bytemuck::cast_slice(values), true),
    }
}

/// Where each row's stored numbers are, and by what they are divided.
pub(crate) fn row_spans(rows: &Rows) -> Vec<Span> {
    let ends = rows.starts.windows(2).zip(&rows.scale);
    ends.map(|(ends, &scale)| Span { begin: ends[0].into(), count: ends[1] - ends[0], scale }).collect()
}

/// How stored values become the network's values.
pub(crate) fn row_scaling(rows: &Rows) -> Scaling {
    match rows.kind {
        Scale::Counts => Scaling { log: true, by: 1.0 / rows.factor },
        Scale::Log1p => Scaling { log: false, by: 1.0 / rows.factor },
        Scale::Log1p10 => Scaling { log: false, by: 10.0 / rows.factor },
    }
}
