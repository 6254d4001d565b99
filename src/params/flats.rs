//! What is kept of every weight.

/// One flat buffer each, laid out as the table says, `[L]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flats<T> {
    /// The weights.
    pub weights: T,
    /// Their running average.
    pub average: T,
    /// AdamW's first moments.
    pub moment1: T,
    /// AdamW's second moments.
    pub moment2: T,
}

impl<T> Flats<T> {
    /// All four, in the order in which a checkpoint has them.
    pub fn each(self) -> [T; 4] {
        [self.weights, self.average, self.moment1, self.moment2]
    }

    /// Of the four, in that order.
    pub fn of([weights, average, moment1, moment2]: [T; 4]) -> Flats<T> {
        Flats { weights, average, moment1, moment2 }
    }

    /// The same of what `f` makes of each.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Flats<U> {
        Flats::of(self.each().map(f))
    }
}
