//! Weights in a safetensors file: each parameter under its name, as any framework can open it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Params, Table};
use crate::aside;
use crate::error::{At, Error, Result};
use crate::tensor::Tensor;

impl Params {
    /// Writes the weights, f32 and without gradients, completely or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    ///
    /// # Panics
    /// As [`Params::weights`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let weights = self.weights().to_host();
        let numbers = |entry: &super::Entry| tensor_view(&entry.shape, &weights.data()[entry.range()]);
        write(path, self.entries().iter().map(|entry| (entry.name.clone(), numbers(entry))).collect(), None)
    }

    /// Weights that [`Params::save`] wrote for the same table, on the host and without gradients.
    ///
    /// # Errors
    /// A file that cannot be read or is not of safetensors; a parameter that it lacks, has in another shape or type, or has beyond
    /// the table's.
    pub fn load(path: &Path, table: Table) -> Result<Params> {
        let wrong = |what: String| Error::format(path, what);
        let bytes = fs::read(path).at(path)?;
        let file =
            SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
        if let Some(other) = file.names().into_iter().filter(|name| table.find(name).is_none()).min() {
            return Err(wrong(format!("tensor {other:?} is not a parameter of this model")));
        }
        let mut flat = vec![0.0f32; table.len()];
        for entry in table.entries() {
            let found = view_of(&file, path, &entry.name, &entry.shape)?;
            flat[entry.range()].copy_from_slice(&bytemuck::pod_collect_to_vec::<u8, f32>(found.data()));
        }
        Ok(Params::new(table, Tensor::new(&[flat.len()], flat)))
    }
}

/// A tensor of a file at `path`, its type and shape checked.
pub(crate) fn view_of<'a>(
    file: &SafeTensors<'a>,
    path: &Path,
    name: &str,
    shape: &[usize],
) -> Result<TensorView<'a>> {
    let wrong = |what: String| Error::format(path, format!("tensor {name:?} is {what}"));
    let view = file.tensor(name).map_err(|_| wrong("missing".into()))?;
    match view.dtype() == Dtype::F32 && view.shape() == shape {
        true => Ok(view),
        false => Err(wrong(format!("{:?} {:?}; expected F32 {shape:?}", view.dtype(), view.shape()))),
    }
}

/// A tensor to be written.
pub(crate) fn tensor_view<'a>(shape: &[usize], numbers: &'a [f32]) -> TensorView<'a> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(numbers))
        .expect("a shape of its numbers")
}

/// Writes a safetensors file aside, then renames it.
pub(crate) fn write(
    path: &Path,
    views: Vec<(String, TensorView)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    aside::named(path, |aside| {
        // The library creates the file under another name, for its owner only.
        let open_to = fs::File::create(aside).and_then(|file| file.metadata()).at(aside)?.permissions();
        safetensors::serialize_to_file(views, metadata, aside)
            .map_err(|e| Error::format(path, format!("could not be written: {e}")))?;
        fs::set_permissions(aside, open_to).at(aside)
    })
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use crate::params::{Init, Params, Table};
    use crate::rng::Rng;

    fn table(names: &[(&str, usize)]) -> Table {
        let mut table = Table::default();
        for (name, width) in names {
            table.add(name, &[3, *width], Init::Normal(1.0), true);
        }
        table
    }

    #[test]
    fn weights_come_back_and_those_of_another_table_do_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("w.safetensors");
        let made = table(&[("a", 5), ("b", 2)]);
        let params = Params::new(made.clone(), made.draw(Rng::new(1)));
        params.save(&path).expect("written");
        let read = Params::load(&path, made).expect("read");
        assert_eq!(read.weights().data(), params.weights().data());
        for (names, expected) in [
            (table(&[("a", 5)]), "\"b\" is not a parameter"),
            (table(&[("a", 5), ("b", 2), ("c", 1)]), "\"c\" is missing"),
            (table(&[("a", 4), ("b", 2)]), "\"a\" is F32 [3, 5]; expected F32 [3, 4]"),
        ] {
            let told = Params::load(&path, names).expect_err("a refusal").to_string();
            assert!(told.contains(expected), "{told:?} should say {expected:?}");
        }
    }

    #[test]
    fn numbers_of_another_type_are_no_weights() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("w.safetensors");
        let bytes = [0u8; 60];
        let whole = TensorView::new(Dtype::I32, vec![3, 5], &bytes).expect("a shape of its numbers");
        safetensors::serialize_to_file([("a", whole)], None, &path).expect("written");
        let told = Params::load(&path, table(&[("a", 5)])).expect_err("a refusal").to_string();
        assert!(told.contains("\"a\" is I32 [3, 5]; expected F32 [3, 5]"), "{told}");
    }
}
