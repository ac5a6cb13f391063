//! A state that other threads read while the next step is computed.
//!
//! Between two commits the state does not change. So a checkpoint's part is copied, and ranks that join are fed, from the
//! state itself while the rank goes on; only the next change waits until nobody reads it any more.

use medley_model::state::State;
use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

/// A state, and who reads it.
#[derive(Debug)]
pub struct Shared {
    state: Arc<State>,
    /// One for each view that was given out; it ends with the view's last clone.
    views: Vec<Receiver<Infallible>>,
}

impl From<State> for Shared {
    fn from(state: State) -> Self {
        Self {
            state: Arc::new(state),
            views: Vec::new(),
        }
    }
}

impl Deref for Shared {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl Shared {
    /// The state as it is now, for another thread. It is to be held for as long as a copy takes, or a send that has a
    /// deadline: the next change waits for it.
    pub fn view(&mut self) -> View {
        let (held, ended) = mpsc::sync_channel(0);
        self.views.push(ended);
        View {
            state: Arc::clone(&self.state),
            _held: held,
        }
    }

    /// The state, to be changed: waits until all views have ended.
    pub fn change(&mut self) -> &mut State {
        for view in self.views.drain(..) {
            // Nothing is ever sent: this returns when the view has ended.
            let _ = view.recv();
        }
        Arc::get_mut(&mut self.state).expect("nobody else holds the state")
    }
}

/// A state that does not change as long as this lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    // Fields are dropped in this order: who waits for the end of `_held` finds `state` free.
    state: Arc<State>,
    _held: SyncSender<Infallible>,
}

impl Deref for View {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::blip;
    use super::*;
    use std::thread;

    #[test]
    fn a_change_waits_for_every_clone_of_every_view() {
        let mut shared = Shared::from(State::zeros(&blip()));
        let (first, second) = (shared.view(), shared.view());
        let clone = first.clone();
        drop(first);
        let (go, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                wait.recv().unwrap();
                // Were the change not to wait, it would be seen here, or would have failed.
                (clone.step, second.step)
            });
            let writer = scope.spawn(|| shared.change().step = 9);
            assert!(!writer.is_finished());
            go.send(()).unwrap();
            assert_eq!(reader.join().unwrap(), (0, 0));
            writer.join().unwrap();
        });
        assert_eq!(shared.step, 9);
    }

    #[test]
    fn a_state_that_nobody_reads_changes_at_once() {
        let mut shared = Shared::from(State::zeros(&blip()));
        drop(shared.view());
        shared.change().step = 3;
        assert_eq!(shared.view().step, 3);
    }
}
