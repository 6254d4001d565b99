//! A checkpoint whose header was changed: refused, or a model that predicts.
//!
//! The input is a list of five-byte changes, each a position (little-endian, 32 bits) and a byte, in the header's JSON: names and
//! shapes of the tensors, and all that the run says of itself. Digits become digits and letters letters, so that most of it is read.
#![no_main]

#[path = "../../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use scale_engine::checkpoint::{Checkpoint, Trained};
use scale_engine::config::Config;
use scale_engine::data::h5ad::Cells;
use scale_engine::data::scale::Told;
use scale_engine::predictor::{ControlCells, Request};
use scale_engine::progress::Progress;
use scale_engine::train::{Begin, Settings, train};
use small_data::{World, header};

/// A run's last checkpoint.
struct Honest {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

thread_local! {
    static HONEST: RefCell<Honest> = RefCell::new(Honest::new());
}

impl Honest {
    fn new() -> Honest {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| dir.path().join(name);
        let groups = [(0, 0, 0, 6), (1, 0, 0, 6), (0, 1, 0, 6), (1, 1, 0, 6), (0, 2, 0, 6), (1, 2, 0, 6)];
        let (_data, world) = World::of_groups(header(16, 2, 2, 1), &groups).open();
        let text = "[datasets]\nsmall = \"small\"\n[training]\nsmall = \"train\"\n";
        std::fs::write(place("split.toml"), text).expect("written");
        std::fs::write(place("features.csv"), "gene,a,b\np001,1,0\np002,0,1\n").expect("written");
        let set = "encoder.kind=mlp flow.width=16 flow.heads=1 flow.ffn=16 flow.layers=1 decoder.width=16 conditions.width=16 \
                   encoder.width=16 data.sets=2 data.cells=8 train.steps=1 train.val_every=0";
        let set: Vec<String> = set.split_whitespace().map(String::from).collect();
        let config = Config::load(Some("tiny"), None, &set).expect("a config");
        let begin = Begin::Anew { config: Box::new(config), init_from: None, features: Some(place("features.csv")) };
        let settings = Settings::new(world.dir(), &place("split.toml"), &place("run"), begin);
        train(&settings, &Progress::silent()).expect("a run");
        let bytes = std::fs::read(place("run/checkpoints/last.safetensors")).expect("a checkpoint");
        Honest { dir, bytes }
    }
}

fuzz_target!(|changes: &[u8]| {
    HONEST.with_borrow_mut(|honest| {
        let mut bytes = honest.bytes.clone();
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        for change in changes.chunks_exact(5) {
            let at = u32::from_le_bytes(change[..4].try_into().expect("four bytes")) as usize % header;
            bytes[8 + at] = match bytes[8 + at] {
                b'0'..=b'9' => b'0' + change[4] % 10,
                b'a'..=b'z' => b'a' + change[4] % 26,
                other => other,
            };
        }
        let path = honest.dir.path().join("changed.safetensors");
        std::fs::write(&path, &bytes).expect("written");
        let _ = (Checkpoint::describe(&path), Checkpoint::check(&path), Checkpoint::load(&path));
        let Ok(trained) = Trained::load(&path) else { return };
        let predictor = trained.predictor(0);
        let genes = &predictor.data.genes;
        let mut cells = Cells::empty(sprs::CompressedStorage::CSR, genes.len());
        for i in 0..3 {
            let cell = sprs::CsVecI::new(genes.len(), vec![i, i + 1], vec![1.0, 2.0 + i as f32]);
            cells = cells.append_outer_csvec(cell.view());
        }
        let Ok(controls) = ControlCells::of_matrix(predictor.data, genes, &cells, None, Told::default()) else { return };
        let Ok(context) = predictor.context(&controls) else { return };
        let request = Request { conditions: [0, 1, 0], cells: 3 };
        let _ = context.predict(request, None, |row, _| {
            assert_eq!(row.len(), genes.len());
            Ok(())
        });
    });
});
