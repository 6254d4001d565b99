//! Curves for TensorBoard: an events file of scalars.
//!
//! A record is its length, a checksum of the length, the bytes, a checksum of the bytes. The bytes are an `Event` message of
//! TensorFlow's event.proto; scalars need five of its fields, a resumed run two more, all of which are encoded here by hand.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{At, Result};

/// An open events file.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts a new events file in a run's folder; TensorBoard joins all files of a folder. Steps after the first `done` are
    /// still to come, so TensorBoard is told to drop what the other files hold of them.
    pub fn create(dir: &Path, done: u64) -> Result<Events> {
        let path = dir.join(format!("events.out.tfevents.{:.6}.scale-engine", now()));
        let mut events = Events { file: File::create(&path).at(&path)?, path };
        let mut event = Message::default();
        event.double(1, now());
        event.bytes(3, b"brain.Event:2");
        events.record(&event.0)?;
        let mut started = Message::default();
        started.whole(1, 1); // SessionLog.START
        let mut event = Message::default();
        event.double(1, now());
        event.whole(2, done + 1);
        event.bytes(7, &started.0);
        events.record(&event.0)?;
        Ok(events)
    }

    /// Scalars of one step.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut one = Message::default();
            one.bytes(1, tag.as_bytes());
            one.float(2, *value as f32);
            summary.bytes(1, &one.0);
        }
        let mut event = Message::default();
        event.double(1, now());
        event.whole(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let parts =
            [&length[..], &masked(&length).to_le_bytes(), bytes, &masked(bytes).to_le_bytes()].concat();
        self.file.write_all(&parts).at(&self.path)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The format's checksum: CRC-32C, rotated and offset so that checksums of checksums do not cancel.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// A protocol buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn whole(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_the_bytes_that_tensorboard_expects() {
        let mut one = Message::default();
        one.bytes(1, b"loss");
        one.float(2, 1.5);
        let mut summary = Message::default();
        summary.bytes(1, &one.0);
        let mut event = Message::default();
        event.whole(2, 300);
        event.bytes(5, &summary.0);
        // Written out by hand from the wire format.
        let expected = b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f";
        assert_eq!(event.0, expected);
        // The check value of CRC-32C is 0xE3069283.
        assert_eq!(masked(b"123456789"), 0xE306_9283u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    #[test]
    fn a_log_that_goes_on_begins_with_the_next_step() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = Events::create(dir.path(), 7).expect("made").path;
        let bytes = std::fs::read(path).expect("readable");
        // Step 8, then a session log of one field.
        assert!(bytes.windows(6).any(|part| part == b"\x10\x08\x3a\x02\x08\x01"), "{bytes:x?}");
    }
}
