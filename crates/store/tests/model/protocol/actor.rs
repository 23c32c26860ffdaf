//! Who acts, and how far each of them is in what it does.

use crate::sql::LANES;

/// A lease as its holder remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub(super) lane: u8,
    pub(super) task: u8,
    pub(super) epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Succeeded,
    Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Idle,
    /// The claim's first statement has begun: free lanes, and what waited in them then.
    Locking {
        free: [bool; LANES],
        waiting: [Option<u8>; LANES],
    },
    /// Holds the lane; the host comes next. What it counted before, where that matters.
    Hosting {
        lane: u8,
        counted: Option<u8>,
    },
    Picked {
        lane: u8,
        task: u8,
    },
    Running {
        lease: Lease,
        pages: u8,
    },
    /// Read the fence, wrote the page's rows.
    Page {
        lease: Lease,
        pages: u8,
    },
    Ending {
        lease: Lease,
        end: End,
    },
    /// Holds the lane; what it read of its task there.
    Ended {
        lease: Lease,
        end: End,
        cancel_requested: bool,
    },
    /// A finish that computed `ready` by its snapshot, before it waits for the lane.
    Stale {
        lease: Lease,
        ready: bool,
    },
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sweep {
    Looking,
    Stealing {
        boot: u8,
    },
    Stolen {
        boot: u8,
        lanes: [bool; LANES],
    },
    /// Saw this task running.
    Rescuing {
        task: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    Begin,
    /// Believes that the task waits.
    Read {
        waits: bool,
    },
    Locked {
        waits: bool,
    },
    /// Has written its task; its lane comes next.
    Written,
    /// Has computed `ready` by its snapshot, before it waits for the lane.
    Computed {
        ready: bool,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fire {
    Idle,
    Due { fire: u8 },
    Locked { fire: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A slot of a worker process.
    Worker {
        boot: u8,
        claims: u8,
        pages: u8,
        has_beaten: bool,
        work: Work,
    },
    Sweeper {
        seen: [(u8, u8); 2],
        looks: u8,
        sweep: Sweep,
    },
    Canceller {
        task: u8,
        change: Change,
    },
    Enqueuer {
        lane: u8,
        task: u8,
        change: Change,
    },
    /// Makes task `task` + n of its nth fire.
    Beat {
        task: u8,
        fires: u8,
        at: Fire,
    },
}

impl Actor {
    pub fn worker(boot: u8, claims: u8, pages: u8) -> Self {
        Self::Worker { boot, claims, pages, has_beaten: false, work: Work::Idle }
    }

    pub fn sweeper(looks: u8) -> Self {
        Self::Sweeper { seen: [(0, 0); 2], looks, sweep: Sweep::Looking }
    }

    pub fn canceller(task: u8) -> Self {
        Self::Canceller { task, change: Change::Begin }
    }

    pub fn enqueuer(lane: u8, task: u8) -> Self {
        Self::Enqueuer { lane, task, change: Change::Begin }
    }

    pub fn beat(task: u8, fires: u8) -> Self {
        Self::Beat { task, fires, at: Fire::Idle }
    }

    pub fn name(&self, n: usize) -> String {
        let kind = match self {
            Self::Worker { .. } => "worker",
            Self::Sweeper { .. } => "sweeper",
            Self::Canceller { .. } => "canceller",
            Self::Enqueuer { .. } => "enqueuer",
            Self::Beat { .. } => "beat",
        };
        format!("{kind} {n}")
    }
}
