//! What this process may not do, whatever runs in it: open files outside its folder, make sockets, start programs.
//!
//! The SQL that is let through has no way to ask for any of this. These walls are for the day when a fault in a parser or a
//! kernel function is found that lets a query run code of its own. They stand where the kernel has them and are reported where
//! it has not; limits of the operating system ([`crate::limits`]) and a process of its own are there in any case.

use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use matome_model::engine::{Escape, Probed, Sandbox};

/// Closes the walls around the process, which must have one thread yet and stand in its own folder.
pub(crate) fn enter() -> Sandbox {
    walls::enter()
}

/// Tries what is forbidden and tells what went through.
pub(crate) fn probe(sandbox: Sandbox) -> Probed {
    type Attempt = fn() -> bool;
    let attempts: [(Escape, Attempt); 4] = [
        (Escape::ReadsFiles, || File::open("/etc/passwd").is_ok()),
        (Escape::WritesFiles, || {
            // Beside the child's own folder, where the parent may write.
            let path = format!("../probe-{}", std::process::id());
            let made = File::create_new(&path).is_ok();
            let _ = std::fs::remove_file(&path);
            made
        }),
        (Escape::OpensSockets, || UdpSocket::bind("127.0.0.1:0").is_ok()),
        (Escape::RunsPrograms, || {
            let quiet = || Stdio::null();
            let started = Command::new("/bin/true").stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
            match started {
                Ok(_) => true,
                // Only a wall says so; without it the program may still be missing.
                Err(err) => err.kind() != ErrorKind::PermissionDenied,
            }
        }),
    ];
    let escapes = attempts.into_iter().filter(|(_, attempt)| attempt()).map(|(escape, _)| escape).collect();
    Probed { sandbox, escapes }
}

#[cfg(not(target_os = "linux"))]
mod walls {
    use matome_model::engine::{Sandbox, Wall};

    pub(super) fn enter() -> Sandbox {
        let missing = || Wall::Missing { why: "only Linux has it".to_owned() };
        Sandbox { landlock: missing(), seccomp: missing() }
    }
}

#[cfg(target_os = "linux")]
mod walls {
    use std::collections::BTreeMap;

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
        RulesetStatus, Scope, make_bitflags,
    };
    use matome_model::engine::{Sandbox, Wall};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch, apply_filter,
    };

    pub(super) fn enter() -> Sandbox {
        // Landlock first: seccomp would not hinder it today, but nothing says that it never will.
        let landlock = match close_files() {
            Ok(RulesetStatus::FullyEnforced) => Wall::Stands,
            Ok(RulesetStatus::PartiallyEnforced) => {
                Wall::Partial { why: "the kernel knows only a part of it".to_owned() }
            }
            Ok(_) => Wall::Missing { why: "the kernel has none, or it is switched off".to_owned() },
            Err(err) => Wall::Missing { why: err.to_string() },
        };
        let seccomp = match close_calls() {
            Ok(()) => Wall::Stands,
            Err(err) => Wall::Missing { why: err.to_string() },
        };
        Sandbox { landlock, seccomp }
    }

    /// Files beneath the current directory only, no TCP, no abstract sockets or signals to the outside.
    fn close_files() -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        // Of the kernels since 6.12; older ones enforce what they know.
        const NEWEST: ABI = ABI::V6;
        let own = make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir
        });
        let folder = PathFd::new(".")?;
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rule(PathBeneath::new(folder, own))?
            .restrict_self()?;
        Ok(restricted.ruleset)
    }

    /// System calls that a query never needs and an intruder would.
    const FORBIDDEN: &[libc::c_long] = &[
        // the network
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        // other programs and processes
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kcmp,
        // other views of the system
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        // parts of the kernel that have been ways out before
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_memfd_create,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_personality,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];

    /// System calls that are answered as if the kernel had none: the C library then uses `clone`, whose flags can be looked
    /// at; `io_uring` would do what is forbidden without a call that a filter sees.
    const UNKNOWN: &[libc::c_long] =
        &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

    fn close_calls() -> Result<(), Box<dyn std::error::Error>> {
        let always = |calls: &[libc::c_long]| -> BTreeMap<i64, Vec<SeccompRule>> {
            calls.iter().map(|call| (*call, Vec::new())).collect()
        };
        let mut forbidden = always(FORBIDDEN);
        // A thread is a clone that shares all; whatever shares less is a process.
        let thread = u64::try_from(libc::CLONE_THREAD)?;
        let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
        forbidden.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
        install(forbidden, libc::EPERM)?;
        install(always(UNKNOWN), libc::ENOSYS)
    }

    fn install(calls: BTreeMap<i64, Vec<SeccompRule>>, answer: libc::c_int) -> Result<(), Box<dyn std::error::Error>> {
        let answer = SeccompAction::Errno(u32::try_from(answer)?);
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let filter: BpfProgram = SeccompFilter::new(calls, SeccompAction::Allow, answer, arch)?.try_into()?;
        apply_filter(&filter)?;
        Ok(())
    }
}
