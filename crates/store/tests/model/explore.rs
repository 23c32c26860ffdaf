//! Visits every state that a model can reach, or every one within so many preemptions, breadth first: the first
//! counterexample is a shortest one.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher as _};

/// Something that takes steps.
pub trait Model: Clone + Hash {
    /// Who can do what now, and the state after it.
    fn steps(&self) -> Vec<Step<Self>>;
    /// What is wrong with this state.
    fn wrong(&self) -> Option<String>;
}

pub struct Step<M> {
    /// Who takes it; one of them runs on until it waits, unless a preemption is spent.
    pub actor: usize,
    pub what: &'static str,
    pub next: M,
    /// The actor stands between two pieces of work now: whoever goes on after it costs no preemption.
    pub rests: bool,
}

/// How a search ended.
pub struct Found {
    pub states: usize,
    /// The kinds of steps that were taken.
    pub covered: BTreeSet<&'static str>,
    /// What went wrong, and how it came about.
    pub counterexample: Option<(String, Vec<String>)>,
}

struct Visited<M> {
    model: M,
    at: usize,
    running: Option<usize>,
    preemptions: u8,
}

/// States are told apart by 64-bit fingerprints: with a million of them the odds that two share one are 1 in 10^7.
pub fn explore<M: Model>(first: M, preemptions: Option<u8>, limit: usize, name: impl Fn(usize) -> String) -> Found {
    let mut seen = HashSet::new();
    // Parent and step of each state, for the trace.
    let mut came: Vec<(usize, usize, &'static str)> = vec![(0, 0, "")];
    let mut covered = BTreeSet::new();
    let mut queue = VecDeque::from([Visited { model: first, at: 0, running: None, preemptions: 0 }]);
    while let Some(Visited { model, at, running, preemptions: spent }) = queue.pop_front() {
        let steps = model.steps();
        let goes_on = running.is_some_and(|actor| steps.iter().any(|step| step.actor == actor));
        for Step { actor, what, next, rests } in steps {
            let preempts = preemptions.is_some() && goes_on && running != Some(actor);
            let spent = spent + u8::from(preempts);
            if preemptions.is_some_and(|most| spent > most) {
                continue;
            }
            let running = if rests || preemptions.is_none() { None } else { Some(actor) };
            let mut hasher = DefaultHasher::new();
            (&next, running, spent).hash(&mut hasher);
            covered.insert(what);
            if !seen.insert(hasher.finish()) {
                continue;
            }
            came.push((at, actor, what));
            let here = came.len() - 1;
            if let Some(wrong) = next.wrong() {
                let trace = trace(&came, here, &name);
                return Found { states: came.len(), covered, counterexample: Some((wrong, trace)) };
            }
            assert!(came.len() < limit, "more than {limit} states: choose smaller bounds");
            queue.push_back(Visited { model: next, at: here, running, preemptions: spent });
        }
    }
    Found { states: came.len(), covered, counterexample: None }
}

fn trace(came: &[(usize, usize, &'static str)], mut at: usize, name: impl Fn(usize) -> String) -> Vec<String> {
    let mut steps = Vec::new();
    while at != 0 {
        let (parent, actor, what) = came[at];
        steps.push(format!("{:<12} {what}", name(actor)));
        at = parent;
    }
    steps.reverse();
    steps
}
