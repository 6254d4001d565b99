//! What a config starts from: the sizes of a preset with the paper's choices, and what a recipe changes.

use super::*;
use crate::error::{Error, Result, unknown};

/// Names of the presets.
pub const PRESETS: [&str; 4] = ["tiny", "s40", "s184", "s280"];

const RECIPES: [&str; 2] = ["default", "paper"];

impl Config {
    /// The sizes of a preset with the paper's recipe (`recipe = "paper"`), or with what worked in a prototype (`"default"`).
    ///
    /// # Errors
    /// No such preset or recipe; the message lists those that exist.
    pub fn new(preset: &str, recipe: &str) -> Result<Config> {
        let mut config = Config::sized(preset)?;
        config.recipe = recipe.into();
        config.check_names()?;
        if recipe == "default" {
            config.take_what_worked();
        }
        Ok(config)
    }

    /// Refuses a preset or recipe that there is not, with what is known.
    pub(super) fn check_names(&self) -> Result<()> {
        let names: [(_, &String, &[&str]); 2] =
            [("preset", &self.preset, &PRESETS), ("recipe", &self.recipe, &RECIPES)];
        match names.into_iter().find(|(_, name, known)| !known.contains(&name.as_str())) {
            Some((field, name, known)) => Err(Error::setting(field, unknown(field, name, known))),
            None => Ok(()),
        }
    }

    /// A preset's sizes, and the paper's choices.
    fn sized(preset: &str) -> Result<Config> {
        let (encoder, flow) = (EncoderConfig::default(), FlowConfig::default());
        let (encoder, flow, decoder, [sets, cells], steps) = match preset {
            "tiny" => (
                EncoderConfig { width: 64, heads: 1, layers: 1, ffn: 176, ..encoder },
                FlowConfig { width: 128, layers: 2, ffn: 320, heads: 2, ..flow },
                256,
                [16, 32],
                1_000,
            ),
            "s40" => (
                EncoderConfig { patch: 256, layers: 2, ..encoder },
                FlowConfig { width: 512, layers: 8, ffn: 1280, ..flow },
                1024,
                [16, 128],
                20_000,
            ),
            "s184" => (encoder, flow, 2048, [8, 256], 100_000),
            "s280" => (
                EncoderConfig {
                    width: 768,
                    heads: 12,
                    layers: 4,
                    ffn: 2048,
                    pool: Pooling::Query,
                    ..encoder
                },
                FlowConfig { width: 1280, ffn: 3072, heads: 10, ..flow },
                2048,
                [8, 256],
                100_000,
            ),
            other => {
                return Err(Error::setting("preset", unknown("preset", other, &PRESETS)));
            }
        };
        // Writing a larger model's checkpoint to disk takes as long as tens of its steps.
        let (every, lr) = if preset == "tiny" { (200, 2e-3) } else { (1_000, 2e-4) };
        Ok(Config {
            preset: preset.into(),
            recipe: "paper".into(),
            encoder,
            flow,
            decoder: DecoderConfig { width: decoder, ..DecoderConfig::default() },
            conditions: ConditionsConfig::default(),
            loss: LossConfig::default(),
            data: DataConfig { sets, cells, ..DataConfig::default() },
            optim: OptimConfig { lr, ..OptimConfig::default() },
            train: TrainConfig { steps, val_every: every, checkpoint_every: every, ..TrainConfig::default() },
            predict: PredictConfig::default(),
        })
    }

    /// What a prototype showed to work, in place of the paper's choices.
    fn take_what_worked(&mut self) {
        self.encoder.standardize = true;
        self.flow.even_fusion = true;
        self.flow.add_condition = true;
        self.flow.t_zero = 0.5;
        self.decoder.activation = Activation::Softplus;
        self.decoder.start_at_mean = true;
        self.loss.effect = 30.0;
        self.predict.calibrate = true;
        self.predict.observe = Observe::Poisson;
    }
}

/// The defaults are the sizes of preset s184 with the paper's choices, but for the sets and cells of a step.
impl Default for EncoderConfig {
    fn default() -> Self {
        let (kind, pool) = (EncoderKind::Llama, Pooling::Flatten);
        EncoderConfig {
            kind,
            patch: 128,
            width: 512,
            layers: 3,
            heads: 8,
            ffn: 1408,
            pool,
            standardize: false,
        }
    }
}

impl Default for FlowConfig {
    fn default() -> Self {
        FlowConfig {
            width: 1024,
            layers: 12,
            heads: 8,
            ffn: 2560,
            fusion: Fusion::Seed,
            prediction: Space::X,
            loss: Space::X,
            conversion: Conversion::Displacement,
            target_gradient: false,
            start: Start::Control,
            mask: 0.0,
            even_fusion: false,
            add_condition: false,
            t_zero: 0.0,
        }
    }
}

impl Default for DecoderConfig {
    fn default() -> Self {
        DecoderConfig { width: 2048, activation: Activation::Relu, start_at_mean: false }
    }
}

impl Default for ConditionsConfig {
    fn default() -> Self {
        ConditionsConfig { width: 512 }
    }
}

impl Default for LossConfig {
    /// Ours: the paper gives none.
    fn default() -> Self {
        LossConfig { w_mmd: 1.0, w_flow: 1.0, w_endpoint: 0.0, effect: 0.0, kernel: MmdKernel::Gaussian }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { sets: 16, cells: 512, order: SetOrder::Drawn, alpha: 0.5, control_examples: true }
    }
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            lr: 2e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
            warmup: 0.02,
            final_lr: 0.1,
            ema: 0.999,
            shard: false,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        let (steps, every) = (100_000, 1_000);
        TrainConfig {
            steps,
            seed: 0,
            log_every: 10,
            val_every: every,
            checkpoint_every: every,
            keep_all: false,
        }
    }
}

impl Default for PredictConfig {
    fn default() -> Self {
        PredictConfig { steps: 1, calibrate: false, observe: Observe::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_presets_and_recipes_that_there_are_begin_a_run() {
        for (preset, recipe) in PRESETS.into_iter().flat_map(|preset| RECIPES.map(|recipe| (preset, recipe)))
        {
            Config::new(preset, recipe).expect("names").validate().expect("they can run");
        }
        let good = Config::new("s40", "paper").expect("names");
        let other = [
            (
                Config { preset: "s41".into(), ..good.clone() },
                r#"preset: unknown preset "s41"; did you mean "s40""#,
            ),
            (
                Config { recipe: "papr".into(), ..good },
                r#"recipe: unknown recipe "papr"; did you mean "paper"?"#,
            ),
        ];
        for (config, told) in other {
            let error = config.validate().expect_err("an unknown name").to_string();
            assert!(error.starts_with(told), "{error}");
            // A run that has it is read, and goes on.
            config.can_run().expect("its fields are good");
            assert_eq!(Config::from_toml(&config.to_toml(), "c.toml".as_ref()).expect("readable"), config);
            let over = config.load_over(None, &["train.steps=3".into()]).expect("laid over it");
            assert_eq!((over.preset, over.recipe, over.train.steps), (config.preset, config.recipe, 3));
        }
    }
}
