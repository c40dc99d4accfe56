//! A Runtime API client that is to be dumped: it runs the function's hooks, asks for `restore/next`, and waits for an answer
//! that comes only in the instances that are restored. The interface is that of AWS Lambda's SnapStart, so its clients run
//! unchanged.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::deployed::Deployed;
use super::failure::{self, Hook};
use super::parked::{NotMade, PARKS, Unready};
use super::runtime_api::{InitState, Job, RuntimeApi, StartedAs};

/// What the runtime layer writes to the status pipe when the client begins to run hooks.
const HOOKS_BEGIN: u8 = b'B';

/// The Runtime API of such a client. Its connections end with the process.
pub(super) struct SnapStart {
    init: watch::Receiver<InitState>,
    serving: JoinHandle<()>,
    _jobs: mpsc::UnboundedSender<Job>,
}

impl Drop for SnapStart {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl SnapStart {
    pub(super) fn begin(listener: std::net::TcpListener, deployed: &Deployed) -> io::Result<Self> {
        let (api, jobs, init) = RuntimeApi::new(&deployed.arn(), StartedAs::Original);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serving = tokio::spawn(Arc::clone(&api).serve(listener, deployed.spec.concurrency));
        Ok(Self { init, serving, _jobs: jobs })
    }

    /// Waits until a client that is to wait for its release by itself asks for a request in place of that.
    pub(super) async fn asks_for_requests(&mut self) -> NotMade {
        // The sender lives as long as it serves.
        drop(self.init.wait_for(|state| !matches!(state, InitState::Running)).await);
        NotMade::for_good(
            "it is a native program that asks for requests without having waited to be released: its random numbers would \
             repeat in its instances (docs/checkpoints.md tells how a program waits)",
        )
    }

    /// Waits until the client waits. Gives the address that it asked from.
    pub(super) async fn await_restore_next(
        &mut self,
        status: &mut pipe::Receiver,
        timeout: Duration,
        hook_limit: Duration,
    ) -> Result<SocketAddrV4, Unready> {
        let mut said = Said::default();
        let mut deadline = Instant::now() + timeout;
        let state = loop {
            let mut bytes = [0; 16];
            tokio::select! {
                // What it reports is here before it ends.
                biased;
                state = self.init.wait_for(|state| !matches!(state, InitState::Running)) => {
                    break state.map(|state| state.clone());
                }
                read = status.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => return Err(Unready::Ended),
                    Ok(count) => {
                        let hooks_began = said.hooks_begin;
                        said.hear(&bytes[..count]);
                        if said.hooks_begin && !hooks_began {
                            deadline = Instant::now() + hook_limit;
                        }
                    }
                },
                () = tokio::time::sleep_until(deadline) => {
                    return Err(NotMade::for_now(match said.hooks_begin {
                        true => failure::hooks_timed_out(Hook::BeforeSnapshot, hook_limit).message,
                        false => format!("its initialisation took longer than {timeout:?}"),
                    }).into());
                }
            }
        };
        match state {
            Ok(InitState::AwaitsRestore(SocketAddr::V4(client))) => {
                // It was written before the request was sent.
                let mut bytes = [0; 16];
                if let Ok(count) = status.try_read(&mut bytes) {
                    said.hear(&bytes[..count]);
                }
                match said.parks {
                    true => Ok(client),
                    false => Err(NotMade::for_good(
                        "its Runtime API client asks to be restored without running the hooks of `snapshot_restore_py`, by \
                         which random numbers are renewed",
                    )
                    .into()),
                }
            }
            Ok(InitState::Ready(_)) => Err(NotMade::for_good(
                "its Runtime API client asks for requests at once: it does not know the SnapStart protocol, by which it \
                 would say when it is ready",
            )
            .into()),
            Ok(InitState::Failed(error)) => Err(NotMade::for_now(error.message).into()),
            // Only IPv4 is listened on; nothing is restored here, and the sender lives as long as it serves.
            Ok(InitState::AwaitsRestore(_) | InitState::RestoreFailed(_) | InitState::Running) | Err(_) => {
                Err(NotMade::for_now("its Runtime API client broke off").into())
            }
        }
    }
}

/// What the runtime layer has said.
#[derive(Debug, Default, Clone, Copy)]
struct Said {
    hooks_begin: bool,
    parks: bool,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        self.hooks_begin |= bytes.contains(&HOOKS_BEGIN);
        self.parks |= bytes.contains(&PARKS);
    }
}
