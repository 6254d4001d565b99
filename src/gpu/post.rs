//! Sends what a step reads to a device, beside the work of the step before.
//!
//! A copy queued like a kernel starts when everything before it is done: the next step's data would travel while the device has
//! nothing else to do. These copies have a queue of their own. Two pages take turns: one is written and sent while the other is
//! read. A page's copies wait for the work that last read the page, and the work that reads it waits for them.

use super::{Buffer, Gpu, Pinned, Stamp, or_fail};

/// Two pages that take turns.
pub struct Post {
    gpu: Gpu,
    pages: [Page; 2],
    turn: usize,
}

brief!(Post, |post| gpu: post.gpu);

#[derive(Default)]
struct Page {
    /// The host's side, one part after the other.
    here: Option<Pinned>,
    /// The device's side, one buffer per part. They are kept: new memory is available only once the work queued before it is done.
    there: Vec<Buffer>,
    /// After the work that last read them.
    read: Option<Stamp>,
}

impl Post {
    /// No pages yet.
    pub fn new(gpu: &Gpu) -> Post {
        Post { gpu: gpu.clone(), pages: Default::default(), turn: 0 }
    }

    /// Its device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Sends each named part to the start of a buffer that may be longer; `read` queues what reads them. Waits only for what the
    /// same page sent two turns ago.
    pub fn send<const N: usize, T>(
        &mut self,
        parts: [(&'static str, &[u8]); N],
        read: impl FnOnce([&Buffer; N]) -> T,
    ) -> T {
        self.turn = 1 - self.turn;
        let page = &mut self.pages[self.turn];
        page.make_room(&self.gpu, &parts);
        let Some(here) = page.here.as_mut() else { unreachable!("made above") };
        let mut room = here.numbers::<u8>();
        for (_, bytes) in &parts {
            let (part, behind) = room.split_at_mut(bytes.len());
            part.copy_from_slice(bytes);
            room = behind;
        }
        let driver = &self.gpu.0.driver;
        if let Some(read) = page.read.take() {
            or_fail(driver.hold_beside(&read));
        }
        let mut at = 0;
        for ((_, bytes), there) in parts.iter().zip(&page.there) {
            here.send_beside(at..at + bytes.len(), there);
            at += bytes.len();
        }
        or_fail(driver.meet_beside());
        let answer = read(std::array::from_fn(|i| &page.there[i]));
        page.read = Some(self.gpu.stamp());
        answer
    }
}

impl Page {
    /// Steps differ by a few per cent in size: some spare room saves later ones from allocating again.
    fn make_room(&mut self, gpu: &Gpu, parts: &[(&'static str, &[u8])]) {
        let with_spare = |bytes: usize| bytes + bytes / 4;
        let total = parts.iter().map(|(_, bytes)| bytes.len()).sum();
        if self.here.as_ref().is_none_or(|here| here.bytes() < total) {
            self.here = Some(gpu.pinned("a step's cells", with_spare(total)));
        }
        let fits = |(there, (_, bytes)): (&Buffer, &(&str, &[u8]))| there.bytes() >= bytes.len();
        if self.there.len() != parts.len() || !self.there.iter().zip(parts).all(fits) {
            // Waits until copies to the old buffers have landed; page-locked memory that was just replaced waited when it was
            // dropped.
            self.here.as_mut().expect("made above").numbers::<u8>();
            self.there =
                parts.iter().map(|(what, bytes)| gpu.buffer(what, with_spare(bytes.len()))).collect();
            gpu.wait();
        }
    }
}
