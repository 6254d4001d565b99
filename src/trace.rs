//! Names for what a profiler sees: NVTX ranges by phase, module, op and kernel, in nsys and ncu.
//!
//! Only with the feature `nvtx`: the crate behind it needs libclang to build. Without it nothing is named, so a range and a scope
//! cost nothing. Unit tests see the same ranges by `recorded`.

use std::fmt;
use std::rc::Rc;

/// Whether anything sees ranges.
const SEEN: bool = cfg!(any(feature = "nvtx", test));

/// A named stretch of this thread's time; ends when dropped.
#[derive(Debug)]
pub struct Range {
    #[cfg(feature = "nvtx")]
    _open: nvtx::LocalRange,
    #[cfg(test)]
    _recorded: recorded::Open,
}

/// Begins a range: `let _range = trace::range("update");`
#[inline(always)]
#[cfg_attr(not(any(feature = "nvtx", test)), allow(unused_variables))]
pub fn range(name: impl fmt::Display) -> Range {
    Range {
        #[cfg(feature = "nvtx")]
        _open: nvtx::LocalRange::new(nvtx::Str::from_str_lossy(&name.to_string())),
        #[cfg(test)]
        _recorded: recorded::Open::new(name.to_string()),
    }
}

impl Range {
    /// Ends it here.
    pub fn end(self) {}
}

/// A module of the model, with those around it: where an op was recorded. A tape gives it to every op, so that the op's backward
/// runs inside the same ranges; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Scope(Option<Rc<Module>>);

#[derive(Debug)]
struct Module {
    name: String,
    outer: Scope,
}

impl Scope {
    /// The scope of a module inside this one; while nothing sees ranges, no scope at all.
    pub fn inner(&self, name: impl fmt::Display) -> Scope {
        Scope(SEEN.then(|| Rc::new(Module { name: name.to_string(), outer: self.clone() })))
    }

    /// True for the same module or one inside of it.
    fn is_in(&self, other: &Scope) -> bool {
        match (&self.0, &other.0) {
            (Some(module), Some(around)) => Rc::ptr_eq(module, around) || module.outer.is_in(other),
            (_, around) => around.is_none(),
        }
    }
}

/// The ranges of the modules that a thread is in, outermost first; they end in reverse order when dropped.
#[derive(Debug, Default)]
pub struct Ranges(Vec<(Scope, Range)>);

impl Ranges {
    /// Leaves the modules that are not around `scope`, then enters those that are.
    pub fn enter(&mut self, scope: &Scope) {
        while self.0.pop_if(|(open, _)| !scope.is_in(open)).is_some() {}
        self.go_in(scope);
    }

    fn go_in(&mut self, scope: &Scope) {
        let Some(module) = &scope.0 else { return };
        if !self.0.last().is_some_and(|(open, _)| open.is_in(scope)) {
            self.go_in(&module.outer);
            self.0.push((scope.clone(), range(&module.name)));
        }
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// What a profiler would see of this thread.
#[cfg(test)]
pub(crate) mod recorded {
    use std::cell::RefCell;

    thread_local! {
        /// Names of the open ranges, and the path of each range that was begun.
        static SEEN: RefCell<(Vec<String>, Vec<String>)> = RefCell::default();
    }

    #[derive(Debug)]
    pub struct Open {
        depth: usize,
    }

    impl Open {
        pub fn new(name: String) -> Open {
            SEEN.with_borrow_mut(|(open, begun)| {
                open.push(name);
                begun.push(open.join("/"));
                Open { depth: open.len() }
            })
        }
    }

    impl Drop for Open {
        fn drop(&mut self) {
            SEEN.with_borrow_mut(|(open, begun)| {
                if open.len() != self.depth {
                    begun.push(format!("range {} ended while {open:?} were open", self.depth));
                }
                open.pop();
            });
        }
    }

    /// Each range that was begun on this thread since the last call, with those around it: `gradients/decoder/matmul backward`.
    ///
    /// # Panics
    /// If one is still open.
    pub fn paths() -> Vec<String> {
        SEEN.with_borrow_mut(|(open, begun)| {
            assert!(open.is_empty(), "still open: {open:?}");
            std::mem::take(begun)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_modules_and_end_on_the_way_out() {
        let model = Scope::default();
        let flow = model.inner("flow");
        let blocks = [0, 1].map(|i| flow.inner(format_args!("blocks.{i}")));
        let mut ranges = Ranges::default();
        recorded::paths();
        for scope in [&blocks[1], &blocks[1], &blocks[0], &flow, &model, &model.inner("decoder")] {
            ranges.enter(scope);
            range("op").end();
        }
        drop(ranges);
        let seen = [
            "flow",
            "flow/blocks.1",
            "flow/blocks.1/op",
            "flow/blocks.1/op",
            "flow/blocks.0",
            "flow/blocks.0/op",
            "flow/op",
            "op",
            "decoder",
            "decoder/op",
        ];
        assert_eq!(recorded::paths(), seen);
    }
}
