//! Lays preset, recipe, TOML file and single settings over each other, in this order, then checks the result as a whole.

use std::ops::RangeInclusive;
use std::path::Path;

use toml::{Table, Value};

use super::explain::meaning;
use super::*;
use crate::error::{At, Error, Result};

const DEEPEST: usize = 512;
const LARGEST: usize = 1 << 20;
/// A prediction remembers each of its steps.
const MOST_STEPS: usize = 10_000;

impl Config {
    /// Lays a config file and `section.field=value` settings over a preset, then checks the whole.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown field, and what [`Config::new`] and [`Config::validate`] refuse; they
    /// name the file or field.
    pub fn load(preset: Option<&str>, file: Option<&Path>, set: &[String]) -> Result<Config> {
        let mut over = Over::read(file, set)?;
        let preset = over.named("preset", preset)?.unwrap_or("tiny").to_string();
        let recipe = over.named("recipe", None)?.unwrap_or("default").to_string();
        over.whole.insert("preset".into(), Value::String(preset.clone()));
        over.lay_on(&Config::new(&preset, &recipe)?)
    }

    /// As [`Config::load`], but over this config, which is that of another run.
    ///
    /// # Errors
    /// As [`Config::load`], and another preset or recipe than this config has.
    pub fn load_over(&self, file: Option<&Path>, set: &[String]) -> Result<Config> {
        let over = Over::read(file, set)?;
        for (field, own) in [("preset", &self.preset), ("recipe", &self.recipe)] {
            // The fields of this config would stay, under the other's name.
            if let Some(asked) = name(&over.whole, field).filter(|asked| asked != own) {
                let what = format!("{asked}, but the run starts from a config with {own}; omit this setting");
                return Err(Error::setting(field, what));
            }
        }
        over.lay_on(self)
    }

    /// Checks the names of preset and recipe, and that these settings can run.
    ///
    /// # Errors
    /// A preset or recipe that there is not; a setting that cannot run, by its field.
    pub fn validate(&self) -> Result<()> {
        self.check_names()?;
        self.can_run()
    }

    /// The same but for the names, which decide nothing: those of a run that is there may be of another version.
    pub(crate) fn can_run(&self) -> Result<()> {
        if let Some((field, n, range)) = self.ranges().into_iter().find(|(_, n, range)| !range.contains(n)) {
            let (least, most) = range.into_inner();
            let bound = if n < least { format!("least {least}") } else { format!("most {most}") };
            return Err(Error::setting(field, format!("must be at {bound}")));
        }
        let (e, f, o, l) = (&self.encoder, &self.flow, &self.optim, &self.loss);
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let weight = |x: f32| x >= 0.0 && x.is_finite();
        let positive = |x: f64| x as f32 > 0.0 && (x as f32).is_finite();
        let decoders = [Activation::Relu, Activation::Softplus, Activation::Identity];
        let checks = [
            (e.width.is_multiple_of(e.heads), "encoder.heads", "must divide encoder.width"),
            (f.width.is_multiple_of(f.heads), "flow.heads", "must divide flow.width"),
            (share(f.mask), "flow.mask", "must be a fraction from 0 to 1"),
            (share(f.t_zero), "flow.t_zero", "must be a fraction from 0 to 1"),
            (
                decoders.contains(&self.decoder.activation),
                "decoder.activation",
                "must be relu, softplus or identity",
            ),
            (weight(l.w_mmd), "loss.w_mmd", "must be finite and not negative"),
            (weight(l.w_flow), "loss.w_flow", "must be finite and not negative"),
            (weight(l.w_endpoint), "loss.w_endpoint", "must be finite and not negative"),
            (weight(l.effect), "loss.effect", "must be finite and not negative"),
            ((0.0..=1.0).contains(&self.data.alpha), "data.alpha", "must be from 0 (uniform) to 1 (natural)"),
            (positive(o.lr), "optim.lr", "must be a positive number, as f32"),
            (positive(o.clip), "optim.clip", "must be a positive number, as f32; 1e9 clips nothing"),
            ((0.0..1.0).contains(&(o.beta1 as f32)), "optim.beta1", "must be at least 0 and below 1, as f32"),
            ((0.0..1.0).contains(&(o.beta2 as f32)), "optim.beta2", "must be at least 0 and below 1, as f32"),
            (positive(o.eps), "optim.eps", "must be a positive number, as f32"),
            ((0.0..1.0).contains(&o.weight_decay), "optim.weight_decay", "must be at least 0 and below 1"),
            (
                (0.0..1.0).contains(&o.warmup),
                "optim.warmup",
                "must be a fraction of the steps, at least 0 and below 1",
            ),
            (
                (0.0..=1.0).contains(&o.final_lr),
                "optim.final_lr",
                "must be a fraction of the peak rate, from 0 to 1",
            ),
            ((0.0..1.0).contains(&o.ema), "optim.ema", "must be at least 0 and below 1"),
        ];
        match checks.into_iter().find(|(right, ..)| !right) {
            Some((_, field, what)) => Err(Error::setting(field, what)),
            None => Ok(()),
        }
    }

    /// Every whole number with its range, as its comment has it; where that has no end, the largest that TOML holds.
    fn ranges(&self) -> [(&'static str, usize, RangeInclusive<usize>); 19] {
        let (e, f, d, t) = (&self.encoder, &self.flow, &self.data, &self.train);
        let any = LARGEST_NUMBER as usize;
        [
            ("encoder.patch", e.patch, 1..=WIDEST),
            ("encoder.width", e.width, 1..=WIDEST),
            ("encoder.layers", e.layers, 1..=DEEPEST),
            ("encoder.heads", e.heads, 1..=any),
            ("encoder.ffn", e.ffn, 1..=WIDEST),
            ("flow.width", f.width, 1..=WIDEST),
            ("flow.layers", f.layers, 1..=DEEPEST),
            ("flow.heads", f.heads, 1..=any),
            ("flow.ffn", f.ffn, 1..=WIDEST),
            ("decoder.width", self.decoder.width, 1..=WIDEST),
            ("conditions.width", self.conditions.width, 1..=WIDEST),
            ("data.sets", d.sets, 1..=LARGEST),
            ("data.cells", d.cells, 2..=LARGEST),
            ("train.steps", t.steps as usize, 1..=any),
            ("train.seed", t.seed as usize, 0..=any),
            ("train.log_every", t.log_every as usize, 1..=any),
            ("train.val_every", t.val_every as usize, 0..=any),
            ("train.checkpoint_every", t.checkpoint_every as usize, 1..=any),
            ("predict.steps", self.predict.steps, 1..=MOST_STEPS),
        ]
    }
}

/// What is laid over a config: a file, then settings.
struct Over<'a> {
    file: Option<&'a Path>,
    of_file: Table,
    of_set: Table,
    whole: Table,
}

impl<'a> Over<'a> {
    fn read(file: Option<&'a Path>, set: &[String]) -> Result<Over<'a>> {
        let mut of_file = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).at(path)?;
            of_file = text.parse().map_err(|e: toml::de::Error| Error::format(path, e.to_string()))?;
        }
        let mut of_set = Table::new();
        for item in set {
            lay(&mut of_set, parse_set(item)?);
        }
        let mut whole = of_file.clone();
        lay(&mut whole, of_set.clone());
        Ok(Over { file, of_file, of_set, whole })
    }

    /// The preset or recipe, on which the parameter of [`Config::load`], settings and file must agree: a config written by a run lists
    /// what both begin with, and would keep it under the other name.
    fn named<'b>(&'b self, field: &'static str, asked: Option<&'b str>) -> Result<Option<&'b str>> {
        if self.whole.get(field).is_some_and(|value| !value.is_str()) {
            return Err(self.wrong(field.into(), "must be a name in quotes".into()));
        }
        let path = self.file.map_or(String::new(), |path| path.display().to_string());
        let (of_set, of_file) = (name(&self.of_set, field), name(&self.of_file, field));
        let all = [(field, "", asked), ("set", "`set`", of_set), (&*path, &*path, of_file)];
        let mut told = all.into_iter().filter_map(|(by, other, name)| Some((by, other, name?)));
        let Some((by, _, asked)) = told.next() else { return Ok(None) };
        match told.find(|(.., name)| *name != asked) {
            Some((_, other, name)) => {
                let what = format!(
                    "{asked} is asked for, but {other} has {field} = {name:?}; give only one of them"
                );
                Err(Error::setting(by, what))
            }
            None => Ok(Some(asked)),
        }
    }

    fn lay_on(&self, config: &Config) -> Result<Config> {
        let base = Table::try_from(config).map_err(|e| Error::setting("config", e.to_string()))?;
        let mut whole = base.clone();
        lay(&mut whole, self.whole.clone());
        let config: Config = whole.try_into().map_err(|e: toml::de::Error| {
            let field = first_misfit(&base, &self.whole).unwrap_or("config".into());
            // Backticks are for fields that have options, which the names it may list have not.
            let what = e.message().replace('`', "\"");
            let told = match meaning(&field) {
                meaning if meaning.is_empty() => what,
                meaning => format!("{what}; it is: {meaning}"),
            };
            self.wrong(field, told)
        })?;
        // The names are those of a preset and recipe, or of another run.
        config.can_run().map_err(|error| match error {
            Error::Setting { field, what } => self.wrong(field, what),
            error => error,
        })?;
        Ok(config)
    }

    /// The error names the file too if the field comes from there and not from a setting.
    fn wrong(&self, field: String, what: String) -> Error {
        match self.file.filter(|_| holds(&self.of_file, &field) && !holds(&self.of_set, &field)) {
            Some(path) => Error::setting(format!("{}: {field}", path.display()), what),
            None => Error::setting(field, what),
        }
    }
}

/// The text value of a top-level field.
fn name<'a>(table: &'a Table, field: &str) -> Option<&'a str> {
    table.get(field).and_then(Value::as_str)
}

/// Whether a table has `section.field`, or a top-level field.
fn holds(table: &Table, field: &str) -> bool {
    match field.split_once('.') {
        Some((section, field)) => table.get(section).is_some_and(|fields| fields.get(field).is_some()),
        None => table.contains_key(field),
    }
}

/// The first field that does not fit on its own: the error for the whole config gives the value, not the field's name.
fn first_misfit(base: &Table, over: &Table) -> Option<String> {
    let fits = |over: Table| {
        let mut one = base.clone();
        lay(&mut one, over);
        one.try_into::<Config>().is_ok()
    };
    let alone = |key: &str, value: Value| Table::from_iter([(key.to_string(), value)]);
    for (section, value) in over {
        let Value::Table(fields) = value else {
            match fits(alone(section, value.clone())) {
                true => continue,
                false => return Some(section.clone()),
            }
        };
        let misfit = |(field, value): &(&String, &Value)| {
            !fits(alone(section, Value::Table(alone(field, (*value).clone()))))
        };
        if let Some((field, _)) = fields.iter().find(misfit) {
            return Some(format!("{section}.{field}"));
        }
    }
    None
}

/// `section.field=value` as a nested table. A value that is not TOML is a string: `flow.start=mixed`.
fn parse_set(item: &str) -> Result<Table> {
    let (path, value) = item
        .split_once('=')
        .filter(|(path, _)| path.split('.').count() <= 2 && path.split('.').all(|key| !key.trim().is_empty()))
        .ok_or_else(|| Error::setting("set", format!("{item:?} is not section.field=value")))?;
    if value.contains(['\n', '\r']) {
        return Err(Error::setting("set", format!("{item:?} has several lines; give one setting at a time")));
    }
    let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    let mut value = parsed.unwrap_or_else(|| Value::String(value.trim().to_string()));
    for key in path.trim().rsplit('.') {
        value = Value::Table(Table::from_iter([(key.to_string(), value)]));
    }
    match value {
        Value::Table(table) => Ok(table),
        _ => unreachable!("rsplit yields at least one key"),
    }
}

/// Lays `over` on `base`, table by table.
fn lay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            // Integers are accepted where a float is meant: optim.lr=1.
            (Some(Value::Float(below)), Value::Integer(above)) => *below = above as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_lie_over_the_file_and_the_file_over_the_preset() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "preset = \"s40\"\n[flow]\nstart = \"mixed\"\nmask = 0.1\n").expect("written");
        let set = ["flow.mask=0".to_string(), "train.seed = 7".to_string(), "flow.loss = v".to_string()];
        let config = Config::load(None, Some(&file), &set).expect("a good config");
        assert_eq!((config.flow.width, config.flow.start, config.flow.mask), (512, Start::Mixed, 0.0));
        assert_eq!((config.train.seed, config.flow.loss), (7, Space::V));
        assert_eq!(Config::from_toml(&config.to_toml(), &file).expect("readable"), config);

        for deep in ["a.b.c=1".to_string(), format!("{}a=1", "a.".repeat(60_000))] {
            let error = Config::load(None, None, &[deep]).expect_err("too deep").to_string();
            assert!(error.ends_with("is not section.field=value"), "{error:.80}");
        }
        // No name in a list of values is taken for a field that has an option.
        let set = ["flow.start=contrl".to_string()];
        let error = Config::load(None, None, &set).expect_err("no start").to_string();
        assert!(error.contains("expected one of \"control\", "), "{error}");

        std::fs::write(&file, "[train]\nsteps = \"many\"\n").expect("written");
        let error = Config::load(None, Some(&file), &[]).expect_err("no number").to_string();
        assert!(error.contains("c.toml: train.steps: "), "{error}");
        let set = ["train.steps=few".to_string()];
        let error = Config::load(None, Some(&file), &set).expect_err("no number").to_string();
        assert!(error.starts_with("train.steps: "), "{error}");
    }

    #[test]
    fn every_whole_number_has_the_range_that_its_comment_states() {
        let number = |word: &str| -> Option<usize> {
            let digits = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
            match digits.split_once('^') {
                Some((base, power)) => Some(base.parse::<usize>().ok()?.pow(power.parse().ok()?)),
                None => digits.parse().ok(),
            }
        };
        let stated = |meaning: &str| {
            let words: Vec<&str> = meaning.split_whitespace().collect();
            let range = |three: &[&str]| match three[1..] {
                ["to", most] => Some(number(three[0])?..=number(most)?),
                ["or", more] if more.starts_with("more") => Some(number(three[0])?..=LARGEST_NUMBER as usize),
                _ => None,
            };
            words.windows(3).find_map(range).unwrap_or(0..=LARGEST_NUMBER as usize)
        };
        let config = Config::new("tiny", "default").expect("names");
        let ranges = config.ranges();
        for (field, _, range) in &ranges {
            assert_eq!(stated(&meaning(field)), *range, "{field}: {}", meaning(field));
        }
        let whole = |value: &String| value.parse::<u64>().is_ok();
        let mut all: Vec<String> =
            config.fields().into_iter().filter(|(_, v)| whole(v)).map(|(f, _)| f).collect();
        let mut rows = ranges.map(|(field, ..)| field.to_string());
        all.sort();
        rows.sort();
        assert_eq!(all, rows);
    }

    #[test]
    fn a_preset_or_recipe_is_not_laid_over_the_settings_of_another() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, Config::new("s40", "default").expect("names").to_toml()).expect("written");
        let file = Some(file.as_path());
        let load = |preset, file, set: &str| Config::load(preset, file, &[set.to_string()]);
        for (preset, file, set) in [
            (None, file, "recipe=paper"),
            (None, file, "preset=tiny"),
            (Some("tiny"), file, "recipe=default"),
            (Some("tiny"), None, "preset=s40"),
        ] {
            let error = load(preset, file, set).expect_err(set).to_string();
            let by = if preset.is_some() { "preset: tiny is asked for, but " } else { "set: " };
            assert!(error.starts_with(by) && error.contains("give only one of them"), "{error}");
        }
        assert_eq!(load(Some("s40"), file, "recipe=default").expect("the same names").preset, "s40");
    }

    #[test]
    fn a_wrong_field_or_value_is_named() {
        for (set, word) in [
            ("flow.stat=mixed", "stat"),
            ("flow.start=mixd", "mixd"),
            ("optim.lr=fast", "optim.lr: "),
            ("flow.heads=3", "flow.heads"),
            ("optim.beta2=1", "optim.beta2"),
            ("flow.layers=0", "flow.layers"),
            ("data.alpha=2", "data.alpha"),
            ("data.cells=1", "data.cells: must"),
            ("optim.warmup=1", "optim.warmup"),
            ("optim.clip=0", "optim.clip"),
            ("optim.clip=inf", "1e9 clips nothing"),
            ("optim.lr=1e39", "as f32"),
            ("predict.observe=false", "it is: none | poisson"),
            ("=3", "section.field=value"),
            ("flow.=3", "section.field=value"),
            ("loss.w_mmd=nan", "loss.w_mmd"),
            ("flow.layers=1000000", "flow.layers: must be at most 512"),
            ("data.cells", "section.field=value"),
            ("recipe=papr", "papr"),
        ] {
            let error = Config::load(None, None, &[set.to_string()]).expect_err(set).to_string();
            assert!(error.contains(word), "{set}: {error}");
        }
        // A field of another section has no meaning here.
        let error = Config::load(None, None, &["flow.lr=1".to_string()]).expect_err("no field").to_string();
        assert!(error.contains("unknown field") && !error.contains("it is:"), "{error}");
    }
}
