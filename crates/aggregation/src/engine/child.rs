//! One child process and its folder.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use matome_model::engine::{FRAME_HEADER_BYTES, Frame, Request};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::EngineSettings;
use super::error::{EngineError, ended};

/// Bytes of stderr that are kept, from its end.
const STDERR_BYTES: usize = 4 << 10;

/// Between two looks at the memory of a child.
const WATCH_EVERY: Duration = Duration::from_millis(100);

const SCRATCH_PREFIX: &str = "engine-";

/// A running child. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub(super) struct EngineChild {
    process: Child,
    /// Kept open while the child works: it ends itself when this closes.
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: JoinHandle<Vec<u8>>,
    scratch: TempDir,
    /// Bytes of memory past which it is killed.
    resident_limit: Option<u64>,
}

impl EngineChild {
    pub(super) fn start(settings: &EngineSettings) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Start { program: settings.program.clone(), source };
        fs::create_dir_all(&settings.scratch_root).map_err(failed)?;
        let scratch =
            tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir_in(&settings.scratch_root).map_err(failed)?;
        let mut process = Command::new(&settings.program)
            .args(&settings.arguments)
            .env_clear()
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for this process, which ends its children in its own time.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = process.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::with_capacity(64 << 10, process.stdout.take().expect("stdout is a pipe"));
        let mut pipe = process.stderr.take().expect("stderr is a pipe");
        let stderr = tokio::spawn(async move {
            let mut tail = Vec::new();
            let mut piece = [0; 1024];
            while let Ok(read @ 1..) = pipe.read(&mut piece).await {
                tail.extend_from_slice(&piece[..read]);
                let surplus = tail.len().saturating_sub(STDERR_BYTES);
                tail.drain(..surplus);
            }
            tail
        });
        Ok(Self { process, stdin, stdout, stderr, scratch, resident_limit: None })
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// From now on the child is killed when it is seen with more than `bytes` of memory.
    pub(super) fn watch_memory(&mut self, bytes: u64) {
        self.resident_limit = Some(bytes);
    }

    /// Sends the child's only request.
    pub(super) async fn ask(&mut self, request: &Request, deadline: Instant, seconds: u64) -> Result<(), EngineError> {
        let payload = serde_json::to_vec(request).map_err(|err| EngineError::Engine { reason: err.to_string() })?;
        let len =
            u32::try_from(payload.len()).map_err(|_| EngineError::Engine { reason: "request too long".to_owned() })?;
        let send = async {
            self.stdin.write_all(&Frame::Request.head(len)).await?;
            self.stdin.write_all(&payload).await?;
            self.stdin.flush().await
        };
        match timeout_at(deadline, send).await {
            // A child that no longer reads has said why, or the end of its output tells how it ended.
            Ok(_) => Ok(()),
            Err(_) => Err(self.late(seconds).await),
        }
    }

    /// The child's next frame, until `deadline`, which stands for a limit of `seconds`.
    pub(super) async fn frame(&mut self, deadline: Instant, seconds: u64) -> Result<(Frame, Vec<u8>), EngineError> {
        let read = async {
            let mut head = [0; FRAME_HEADER_BYTES];
            self.stdout.read_exact(&mut head).await?;
            let Some((frame, len)) = Frame::parse_head(head) else {
                return Ok(None);
            };
            let mut payload = vec![0; len as usize];
            self.stdout.read_exact(&mut payload).await?;
            Ok::<_, io::Error>(Some((frame, payload)))
        };
        let watched = self.process.id().zip(self.resident_limit);
        let past_limit = async {
            loop {
                if let Some((pid, limit)) = watched
                    && let Some(resident) = resident_bytes(pid)
                    && resident > limit
                {
                    return resident;
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(deadline, read) => outcome.map_err(|_| None),
            resident = past_limit => Err(Some(resident)),
        };
        match outcome {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(EngineError::Engine { reason: "the child sent what is no frame".to_owned() }),
            Ok(Err(_)) => Err(self.ended().await),
            Err(None) => Err(self.late(seconds).await),
            Err(Some(resident)) => {
                // It may be gone already; dropping kills it too.
                let _ = self.process.kill().await;
                Err(EngineError::memory_limit(resident))
            }
        }
    }

    async fn late(&mut self, seconds: u64) -> EngineError {
        // It may be gone already; dropping kills it too.
        let _ = self.process.kill().await;
        EngineError::time_limit(seconds)
    }

    /// Its pipe broke: how did it end?
    async fn ended(&mut self) -> EngineError {
        const PATIENCE: Duration = Duration::from_secs(2);
        let status = timeout(PATIENCE, self.process.wait()).await;
        let stderr = timeout(PATIENCE, &mut self.stderr).await;
        let stderr = stderr.ok().and_then(Result::ok).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        match status {
            Ok(Ok(status)) => ended(status.signal(), status.code(), stderr),
            _ => EngineError::Engine { reason: "the child closed its pipes without ending".to_owned() },
        }
    }
}

/// Memory that a process really holds, in bytes. `None` where the system does not tell, or the process is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    // The kernel makes this file when it is read: nothing to leave the async threads for.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Removes the folders of children in `root`.
pub(super) fn clear_scratch(root: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
