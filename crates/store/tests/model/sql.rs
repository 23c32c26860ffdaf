//! PostgreSQL's READ COMMITTED as far as the task engine leans on it.
//!
//! - A statement sees what was committed when it began, and what its own transaction wrote ([`Sql::snapshot`]).
//! - A row that a statement changes or selects `for update` is locked until its transaction ends; one that another
//!   transaction holds is waited for ([`Sql::lock`]), or left out (`skip locked`).
//! - After a wait the statement goes on with the newest version of **that row** and looks at its condition again;
//!   all that it read elsewhere, in a sub-select for one, stays as it was when it began. So a
//!   statement that may wait and also reads other rows is two steps of this model: its snapshot, then its locks.
//! - A circle of waits is broken by rolling one of them back.

pub const LANES: usize = 3;
pub const TASKS: usize = 5;
pub const BOOTS: usize = 4;
const ROWS: usize = LANES + TASKS + BOOTS + 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not inserted yet.
    #[default]
    Absent,
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl Status {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    pub ready: bool,
    pub epoch: u8,
    /// `lease_worker` and `lease_task`.
    pub lease: Option<(u8, u8)>,
    /// Pages that its checkpoint counts.
    pub pages: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Task {
    pub status: Status,
    pub lane: u8,
    /// Of the only schedule; `None`: a run by hand.
    pub fire: Option<u8>,
    pub epoch: Option<u8>,
    pub started: bool,
    pub cancel_requested: bool,
    pub attempt: u8,
    pub crashes: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Worker {
    pub registered: bool,
    pub beat_seq: u8,
    /// By the wall clock of whoever wrote it.
    pub last_beat_at: u8,
    pub gone: bool,
}

/// What is committed, or what a statement sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tables {
    pub lanes: [Lane; LANES],
    pub tasks: [Task; TASKS],
    pub workers: [Worker; BOOTS],
    /// `next_at` of the only schedule, which belongs to lane 0.
    pub next_at: u8,
}

impl Tables {
    /// The first waiting task of a lane: `order by sort_key, id limit 1`.
    pub fn first_pending(&self, lane: usize) -> Option<usize> {
        self.tasks.iter().position(|task| task.status == Status::Pending && usize::from(task.lane) == lane)
    }

    /// How many lanes are leased.
    pub fn leased(&self) -> u8 {
        u8::try_from(self.lanes.iter().filter(|lane| lane.lease.is_some()).count()).unwrap()
    }

    /// The running tasks of a lane; more than one is a defect.
    pub fn running(&self, lane: usize) -> impl Iterator<Item = usize> {
        let of_lane = move |task: &Task| task.status == Status::Running && usize::from(task.lane) == lane;
        self.tasks.iter().enumerate().filter(move |(_, task)| of_lane(task)).map(|(n, _)| n)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Lane(usize),
    Task(usize),
    Worker(usize),
    Schedule,
    /// Of the only host; only its lock matters.
    Host,
}

impl Row {
    fn at(self) -> usize {
        match self {
            Row::Lane(n) => n,
            Row::Task(n) => LANES + n,
            Row::Worker(n) => LANES + TASKS + n,
            Row::Schedule => LANES + TASKS + BOOTS,
            Row::Host => LANES + TASKS + BOOTS + 1,
        }
    }
}

/// An open transaction: the rows it wrote, and which those are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Tx {
    mine: Tables,
    dirty: u16,
}

/// The server: what is committed, who holds which row, what is not committed yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sql {
    pub committed: Tables,
    /// 0: free; else the session, counted from 1.
    locks: [u8; ROWS],
    open: Vec<Tx>,
}

impl Sql {
    pub fn new(committed: Tables, sessions: usize) -> Self {
        Self { committed, locks: [0; ROWS], open: vec![Tx::default(); sessions] }
    }

    /// What a statement of `session` sees that begins now.
    pub fn snapshot(&self, session: usize) -> Tables {
        let mut seen = self.committed;
        let Tx { mine, dirty } = &self.open[session];
        overlay(&mut seen, mine, *dirty);
        seen
    }

    /// The other session that holds the row.
    pub fn held_by_other(&self, session: usize, row: Row) -> Option<usize> {
        match usize::from(self.locks[row.at()]) {
            0 => None,
            holder if holder == session + 1 => None,
            holder => Some(holder - 1),
        }
    }

    /// Takes the lock of a row that nobody else holds.
    pub fn lock(&mut self, session: usize, row: Row) {
        assert!(self.held_by_other(session, row).is_none(), "the caller waits first");
        self.locks[row.at()] = u8::try_from(session + 1).unwrap();
    }

    /// Changes a row inside the transaction; takes its lock.
    pub fn change(&mut self, session: usize, row: Row, change: impl FnOnce(&mut Tables)) {
        self.lock(session, row);
        let mut seen = self.snapshot(session);
        change(&mut seen);
        let tx = &mut self.open[session];
        tx.dirty |= 1 << row.at();
        overlay(&mut tx.mine, &seen, 1 << row.at());
    }

    /// Commits; returns what was committed before.
    pub fn commit(&mut self, session: usize) -> Tables {
        let before = self.committed;
        self.committed = self.snapshot(session);
        self.rollback(session);
        before
    }

    pub fn rollback(&mut self, session: usize) {
        self.open[session] = Tx::default();
        for holder in &mut self.locks {
            if usize::from(*holder) == session + 1 {
                *holder = 0;
            }
        }
    }
}

fn overlay(onto: &mut Tables, from: &Tables, dirty: u16) {
    if dirty == 0 {
        return;
    }
    let is_dirty = |row: Row| dirty & (1 << row.at()) != 0;
    for n in 0..LANES {
        if is_dirty(Row::Lane(n)) {
            onto.lanes[n] = from.lanes[n];
        }
    }
    for n in 0..TASKS {
        if is_dirty(Row::Task(n)) {
            onto.tasks[n] = from.tasks[n];
        }
    }
    for n in 0..BOOTS {
        if is_dirty(Row::Worker(n)) {
            onto.workers[n] = from.workers[n];
        }
    }
    if is_dirty(Row::Schedule) {
        onto.next_at = from.next_at;
    }
}
