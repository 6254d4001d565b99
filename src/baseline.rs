//! Simple predictions that a model has to beat, written as populations of cells like a model's.
//!
//! All of them predict the groups of a part of the split and know only its training groups and the controls:
//!
//! | kind | a predicted cell |
//! |---|---|
//! | mean | a control cell of the group's context + the training mean of the perturbation's effect over cell types |
//! | linear | a control cell + the effect of the pair by the [`linear`] model |
//! | mean-per-cell-type | the mean of all perturbed training cells of the cell type |
//! | mean-per-batch | the mean of all perturbed training cells of the batch |
//! | mean-overall | the mean of all perturbed training cells |
//!
//! The effect of a perturbation on a cell type is the mean of its cells minus that of the controls of the same context
//! ([`bulk::pairs`]); cell types are weighted equally. Sums of control and effect are clipped at 0. A group gets as many cells as
//! were measured; its control cells are drawn as a model's are, every one once before any comes again
//! ([`rounds`](crate::data::controls::rounds)). With [`Observe::Poisson`] counts are drawn around every predicted cell with the
//! library size of its control cell.
//!
//! If training lacks what a kind needs, the group gets the nearest substitute that it does have, and the answer reports
//! this: an unseen perturbation gets the mean effect over all pairs (linear: factors 0), a cell type or batch without
//! perturbed training cells the overall mean.

mod algebra;
pub mod linear;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Observe;
use crate::data::bulk::{self, Pair, Resting, Sums};
use crate::data::controls::{Usable, control_pool};
use crate::data::features::Features;
use crate::data::h5ad::{Cells, Writer};
use crate::data::normalise::greatest;
use crate::data::observe::Observer;
use crate::data::population::{MADE_BY, OBSERVE, Population, Rows, log1p, push_controls};
use crate::data::shard::{Data, Row};
use crate::error::{Error, Result, counted};
use crate::rng::{Rng, stream};
use linear::Linear;

/// Which baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Control cells plus the perturbation's mean effect over the training cell types.
    Mean,
    /// Copies of the mean perturbed training cell of the cell type.
    MeanPerCellType,
    /// Copies of the mean perturbed training cell of the batch.
    MeanPerBatch,
    /// Copies of the mean perturbed training cell.
    MeanOverall,
    /// Control cells plus the effect by the linear model of Ahlmann-Eltze, Huber & Anders (2025).
    Linear,
}

impl Kind {
    /// All kinds, in the order of tables.
    pub const ALL: [Kind; 5] =
        [Kind::Mean, Kind::MeanPerCellType, Kind::MeanPerBatch, Kind::MeanOverall, Kind::Linear];

    /// The name as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mean => "mean",
            Kind::MeanPerCellType => "mean-per-cell-type",
            Kind::MeanPerBatch => "mean-per-batch",
            Kind::MeanOverall => "mean-overall",
            Kind::Linear => "linear",
        }
    }
}

/// How to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which baseline.
    pub kind: Kind,
    /// Whether counts are drawn around the predicted cells.
    pub observe: Observe,
    /// Whether the measured control cells of the contexts follow the predicted cells, as evaluate needs them.
    pub with_controls: bool,
    /// Seeds the draws of control cells and counts.
    pub seed: u64,
}

/// Predicted cells, held or on their way to a file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<R = Cells> {
    /// On the log1p scale; perturbed groups in the requested order, then the controls.
    pub population: Population<R>,
    /// The requested perturbed groups, by whether they were predicted.
    pub asked: Usable,
    /// Groups that got something other than the kind promises: what, and how many groups; empty if there are none.
    pub fallbacks: Vec<String>,
}

/// Predicts the perturbed groups among `asked` by what one kind learns from the groups `train`; several kinds share
/// [`Baselines`].
///
/// # Errors
/// What [`Baselines::on`] and [`Baselines::predict`] refuse.
pub fn baseline(data: &Data, train: &[u32], asked: &[u32], settings: &Settings) -> Result<Answer> {
    Baselines::on(data, train)?.predict(asked, settings)
}

/// What all kinds learn from: sums over the training cells, made when a kind first needs them and kept for the next.
pub struct Baselines<'a> {
    data: &'a Data,
    /// Perturbed training groups, at least one.
    groups: Vec<u32>,
    effects: OnceCell<Effects>,
    profiles: OnceCell<Sums>,
    /// Of each perturbation, for the linear kind.
    features: Option<BTreeMap<u32, Vec<f64>>>,
}

brief!(Baselines<'_>, |trained| data: trained.data, groups: trained.groups.len());

/// What training shows of effects.
struct Effects {
    resting: Resting,
    pairs: Vec<Pair>,
    /// Number of groups without controls of their cell type, which are left out.
    unmatched: usize,
}

impl<'a> Baselines<'a> {
    /// Learns from the perturbed groups among `train`.
    ///
    /// # Errors
    /// There are none, or a group that the data does not have.
    pub fn on(data: &'a Data, train: &[u32]) -> Result<Baselines<'a>> {
        let groups = data.perturbed(train)?;
        match groups.is_empty() {
            true => Err(nothing()),
            false => {
                let (effects, profiles) = (OnceCell::new(), OnceCell::new());
                Ok(Baselines { data, groups, effects, profiles, features: None })
            }
        }
    }

    /// The same, with features as the factors of perturbations in the linear kind: it then knows those too that are not in training.
    pub fn with_features(self, features: &Features) -> Baselines<'a> {
        let (width, inputs) = features.inputs(self.data.manifest());
        let rows = inputs.chunks(width).map(|row| row.iter().map(|&x| x.into()).collect());
        let control = self.data.control_id();
        Baselines { features: Some((0..).zip(rows).filter(|(id, _)| *id != control).collect()), ..self }
    }

    /// Predicts the perturbed groups among `asked`. Those without any control of their cell type are left out, as a model leaves
    /// them out.
    ///
    /// # Errors
    /// Nothing requested that can be predicted, a group that the data does not have, no training cells with controls for a kind that
    /// compares with them, or counts to be drawn from data with unknown target.
    pub fn predict(&self, asked: &[u32], settings: &Settings) -> Result<Answer> {
        self.answer(asked, settings, || Ok(Population::like(self.data.manifest())))
    }

    /// The same cells on their way to an h5ad, which takes its place when the population is [closed](Population::close).
    ///
    /// # Errors
    /// As [`Baselines::predict`]; a file that cannot be written.
    pub fn predict_to(&self, path: &Path, asked: &[u32], settings: &Settings) -> Result<Answer<Writer>> {
        self.answer(asked, settings, || Population::create(path, self.data.manifest()))
    }

    fn answer<R: Rows>(
        &self,
        asked: &[u32],
        settings: &Settings,
        empty: impl FnOnce() -> Result<Population<R>>,
    ) -> Result<Answer<R>> {
        let data = self.data;
        let observer = Observer::asked(settings.observe, data.manifest().target)?;
        let asked = Usable::of(data, asked)?;
        asked.check_some(data, "asked")?;
        let mut fallbacks = BTreeMap::<String, usize>::new();
        let fitted = self.fit(settings.kind, &mut fallbacks)?;
        let mut population = empty()?;
        population.notes = vec![
            (MADE_BY.into(), format!("baseline {}", settings.kind.name())),
            (OBSERVE.into(), settings.observe.name().into()),
            ("seed".into(), settings.seed.to_string()),
        ];
        for &group in &asked.groups {
            let rng = Rng::new(settings.seed).at(stream::BASELINE).at(u64::from(group));
            let pool = control_pool(data, group).expect("groups without controls were left out above");
            let cells = data.groups()[group as usize].cells as usize;
            let controls: Vec<u64> = pool.rounds(rng.at(0)).take(cells).collect();
            let change = fitted.change(data, group, &mut fallbacks);
            population.extend(data.names(group), cells, |i, x| {
                let row = data.row(controls[i]);
                change.apply(data, &row, x);
                if let Some(observer) = &observer {
                    observer.observe(x, row.library, rng.at(1).at(i as u64));
                }
            })?;
        }
        if settings.with_controls {
            push_controls(&mut population, data, &asked.groups)?;
        }
        let fallbacks = fallbacks
            .into_iter()
            .map(|(what, groups)| format!("{what} ({})", counted(groups, "group")))
            .collect();
        Ok(Answer { population, asked, fallbacks })
    }

    fn fit(&self, kind: Kind, fallbacks: &mut BTreeMap<String, usize>) -> Result<Fitted> {
        if matches!(kind, Kind::Mean | Kind::Linear) {
            let Effects { resting, pairs, unmatched } =
                self.effects.get_or_init(|| Effects::of(self.data, &self.groups));
            if pairs.is_empty() {
                return Err(nothing());
            }
            if *unmatched > 0 {
                fallbacks
                    .insert("training groups left out: no controls of their cell type".into(), *unmatched);
            }
            return Ok(match kind {
                Kind::Linear => Fitted::Linear(Linear::fit(pairs, resting, self.features.as_ref())),
                _ => Fitted::Mean { effects: mean_effects(pairs), any: average(pairs.iter()) },
            });
        }
        let sums = self.profiles.get_or_init(|| Sums::of(self.data, &self.groups).expect(CHECKED));
        let profiles = match kind {
            Kind::MeanPerCellType => sums.means(|(cell_type, _)| cell_type),
            Kind::MeanPerBatch => sums.means(|(_, batch)| batch),
            _ => BTreeMap::new(),
        };
        let any = sums.means(|_| ()).remove(&()).expect("there are training groups");
        Ok(Fitted::Profiles { kind, profiles, any })
    }
}

impl Effects {
    fn of(data: &Data, train: &[u32]) -> Effects {
        let resting = Resting::of(data);
        let (pairs, unmatched) = bulk::pairs(data, train, &resting).expect(CHECKED);
        Effects { resting, pairs, unmatched }
    }
}

const CHECKED: &str = "training groups were checked above";

fn nothing() -> Error {
    Error::setting("train", "the training part has no perturbed cells to learn from")
}

/// How a control cell is changed.
enum Change {
    /// control + effect, `[G]`, but neither below 0 nor above what a cell's total allows.
    Add(Vec<f32>),
    /// The profile in place of the cell, `[G]`.
    Become(Vec<f32>),
}

impl Change {
    fn apply(&self, data: &Data, control: &Row, x: &mut [f32]) {
        match self {
            Change::Become(profile) => x.copy_from_slice(profile),
            Change::Add(effect) => {
                x.copy_from_slice(effect);
                for (&gene, value) in control.genes.iter().zip(log1p(data, control)) {
                    x[usize::from(gene)] += value;
                }
                let most = greatest(data.manifest().target);
                x.iter_mut().for_each(|x| *x = x.max(0.0).min(most));
            }
        }
    }
}

/// What the kind learned from training.
enum Fitted {
    /// Mean effects by perturbation, and over all pairs.
    Mean {
        effects: BTreeMap<u32, Vec<f64>>,
        any: Vec<f64>,
    },
    Linear(Linear),
    /// Mean profiles by cell type or batch (none for the overall mean), and of all cells.
    Profiles {
        kind: Kind,
        profiles: BTreeMap<u32, Vec<f64>>,
        any: Vec<f64>,
    },
}

impl Fitted {
    fn change(&self, data: &Data, group: u32, fallbacks: &mut BTreeMap<String, usize>) -> Change {
        let found = &data.groups()[group as usize];
        let [cell_type, perturbation, batch] = data.names(group);
        let mut missed = |what: String| *fallbacks.entry(what).or_default() += 1;
        match self {
            Fitted::Mean { effects, any } => {
                Change::Add(narrow(effects.get(&found.perturbation).unwrap_or_else(|| {
                    missed(format!(
                        "{perturbation:?} is not in training: using the mean effect of all perturbations"
                    ));
                    any
                })))
            }
            Fitted::Linear(linear) => {
                if !linear.knows(found.perturbation) {
                    missed(format!(
                        "{perturbation:?} is not in training: using the factors of the average perturbation"
                    ));
                }
                Change::Add(narrow(&linear.effect(found.cell_type, found.perturbation)))
            }
            Fitted::Profiles { kind: Kind::MeanOverall, any, .. } => Change::Become(narrow(any)),
            Fitted::Profiles { kind, profiles, any } => {
                let (key, name) = match kind {
                    Kind::MeanPerBatch => (found.batch, format!("batch {batch:?}")),
                    _ => (found.cell_type, format!("cell type {cell_type:?}")),
                };
                Change::Become(narrow(profiles.get(&key).unwrap_or_else(|| {
                    missed(format!(
                        "{name} has no perturbed training cells: using the mean of all perturbed cells"
                    ));
                    any
                })))
            }
        }
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Each perturbation's mean over its cell types.
fn mean_effects(pairs: &[Pair]) -> BTreeMap<u32, Vec<f64>> {
    let mut by_perturbation = BTreeMap::<u32, Vec<&Pair>>::new();
    pairs.iter().for_each(|pair| by_perturbation.entry(pair.perturbation).or_default().push(pair));
    by_perturbation.into_iter().map(|(p, pairs)| (p, average(pairs.into_iter()))).collect()
}

fn average<'a>(pairs: impl ExactSizeIterator<Item = &'a Pair>) -> Vec<f64> {
    let count = pairs.len() as f64;
    let mut mean = Vec::new();
    for pair in pairs {
        mean.resize(pair.effect.len(), 0.0);
        mean.iter_mut().zip(&pair.effect).for_each(|(m, e)| *m += e / count);
    }
    mean
}
