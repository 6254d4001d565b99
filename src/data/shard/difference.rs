//! Why the same numbers or ids mean different things in two sets of data, if they do: one judge, in one wording.

use super::Scale;
use super::manifest::{Manifest, Meaning, parting, same_total};

/// What must be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    /// What the numbers of cells mean to a model: genes, factor and total. An unknown total of log values may be the same.
    Numbers,
    /// The vocabularies of labels and the control label. Names of columns may differ.
    Ids,
    /// Both, and what is known of the total: the answers of one could stand for those of the other.
    All,
}

/// What differs first, there (in the data that are compared with) and here. Lists begin with what is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Difference {
    /// The gene of this number, from 1.
    Gene(usize, [Option<String>; 2]),
    /// Some gene; of one side only a checksum of its genes is known.
    Genes,
    /// What log1p values are divided by.
    Factor([f32; 2]),
    /// Counts to which each cell is scaled.
    Total([Option<f64>; 2]),
    /// Counts here, to be scaled to a total that the logarithms there do not show.
    Counts,
    /// A name of some kind that only one side has: that here, if true.
    Name(&'static str, String, bool),
    /// The label of unperturbed cells.
    Control([String; 2]),
}

impl Difference {
    /// The difference in words: `there` and `here` say where, such as `in the run` and `here`.
    pub fn told(&self, there: &str, here: &str) -> String {
        match self {
            Difference::Gene(number, names) => {
                let [a, b] = names.each_ref().map(|name| match name {
                    None => "none".into(),
                    Some(name) => format!("{name:?}"),
                });
                format!("gene {number} is {a} {there} and {b} {here}")
            }
            Difference::Genes => format!("the genes differ from those {there}, or are in another order"),
            Difference::Factor([a, b]) => {
                format!("log1p values are divided by {a} {there} and by {b} {here}")
            }
            Difference::Total(totals) => {
                let [a, b] = totals.map(|total| match total {
                    None => "an unknown total".into(),
                    Some(total) => format!("{total} counts"),
                });
                format!("cells are scaled to {a} {there} and to {b} {here}, before log1p")
            }
            Difference::Counts => format!(
                "values are counts {here}, but {there} they are logarithms that do not say what total they were scaled to"
            ),
            Difference::Name(kind, name, true) => format!("{name:?} is a {kind} {here}, but not {there}"),
            Difference::Name(kind, name, false) => format!("{name:?} is a {kind} {there}, but not {here}"),
            Difference::Control([a, b]) => format!("controls are {a:?} {there} and {b:?} {here}"),
        }
    }

    /// What to do if here are cells that a run is to read; empty if nothing is to be done.
    pub fn way(&self) -> String {
        match self {
            Difference::Total([Some(known), _]) => format!("; give the counts, or scale to {known}"),
            Difference::Counts => "; give log1p values made in the same way".into(),
            _ => String::new(),
        }
    }
}

impl Meaning {
    /// Why cells of `other`, which are here, would mean something else to a model that learned from these, if they would.
    pub(crate) fn difference(&self, other: &Meaning) -> Option<Difference> {
        if self.genes != other.genes {
            return Some(Difference::Genes);
        }
        if self.factor != other.factor {
            return Some(Difference::Factor([self.factor, other.factor]));
        }
        match (self.target, other.target) {
            (None, _) if other.scale == Scale::Counts => Some(Difference::Counts),
            (Some(known), Some(own)) if !same_total(own, known) => {
                Some(Difference::Total([self.target, other.target]))
            }
            _ => None,
        }
    }
}

impl Manifest {
    /// Why something of `other`, which is here, is not the same as in these data (there), if it is not.
    pub(crate) fn difference(&self, other: &Manifest, what: Same) -> Option<Difference> {
        let numbers = || self.meaning().difference(&other.meaning());
        match what {
            Same::Numbers => self.other_gene(other).or_else(numbers),
            Same::Ids => self.other_ids(other),
            Same::All => {
                let ids = self.other_gene(other).or_else(|| self.other_ids(other));
                ids.or_else(|| self.other_total(other)).or_else(numbers)
            }
        }
    }

    fn other_gene(&self, other: &Manifest) -> Option<Difference> {
        let (alike, names) = parting(&self.genes, &other.genes)?;
        Some(Difference::Gene(alike + 1, names.map(Option::<&String>::cloned)))
    }

    fn other_ids(&self, other: &Manifest) -> Option<Difference> {
        let lists = [
            ("cell type", &self.cell_types, &other.cell_types),
            ("perturbation", &self.perturbations, &other.perturbations),
            ("perturbation without cells", &self.unmeasured, &other.unmeasured),
            ("batch", &self.batches, &other.batches),
        ];
        for (kind, there, here) in lists {
            let only = |of: &[String], not: &[String]| {
                of.iter().find(|name| not.binary_search(name).is_err()).cloned()
            };
            let name = only(here, there).map(|name| (name, true));
            if let Some((name, is_here)) = name.or_else(|| Some((only(there, here)?, false))) {
                return Some(Difference::Name(kind, name, is_here));
            }
        }
        let controls = [&self.control, &other.control];
        (controls[0] != controls[1]).then(|| Difference::Control(controls.map(String::clone)))
    }

    fn other_total(&self, other: &Manifest) -> Option<Difference> {
        let same = match (self.target, other.target) {
            (Some(there), Some(here)) => same_total(there, here),
            (there, here) => there == here,
        };
        (!same).then_some(Difference::Total([self.target, other.target]))
    }
}
