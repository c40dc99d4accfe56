//! System calls that instances were killed for, until their end is told.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use stratos_trace::CgroupId;
use tokio::sync::Notify;

use super::super::lock;

/// How many are kept; those of instances that nobody asks about are forgotten first.
const KEPT: usize = 64;
/// How long the kernel's word is waited for; it is on its way when the process has ended.
const PATIENCE: Duration = Duration::from_millis(200);

/// The last system calls that were denied.
#[derive(Default)]
pub(super) struct Denied {
    last: Mutex<VecDeque<(CgroupId, String)>>,
    told: Notify,
}

impl Denied {
    /// A call was denied.
    pub(super) fn tell(&self, cgroup: CgroupId, number: u32, foreign: bool) {
        let name = match stratos_sys::syscalls::name(number) {
            _ if foreign => "of another architecture".to_owned(),
            Some(name) => name.to_owned(),
            None => format!("syscall_{number}"),
        };
        {
            let mut last = lock(&self.last);
            // Its instance outlived that one, so nobody asks for it.
            last.retain(|(of, _)| *of != cgroup);
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back((cgroup, name));
        }
        self.told.notify_waiters();
    }

    fn take(&self, cgroup: CgroupId) -> Option<String> {
        let mut last = lock(&self.last);
        let at = last.iter().rposition(|(of, _)| *of == cgroup)?;
        last.remove(at).map(|(_, name)| name)
    }

    /// The name of the call that a process of this cgroup was killed for.
    pub(super) async fn wait(&self, cgroup: CgroupId) -> Option<String> {
        let told = async {
            loop {
                let more = self.told.notified();
                if let Some(name) = self.take(cgroup) {
                    return name;
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_told_to_its_own_and_few_are_kept() {
        let denied = Denied::default();
        denied.tell(CgroupId(1), 435, false);
        denied.tell(CgroupId(2), 9999, false);
        assert_eq!(denied.wait(CgroupId(2)).await.as_deref(), Some("syscall_9999"));
        assert_eq!(denied.wait(CgroupId(2)).await, None, "it is told once");
        assert_eq!(denied.wait(CgroupId(1)).await.as_deref(), Some("clone3"));
        let later = async { denied.tell(CgroupId(3), 20, true) };
        let told = tokio::join!(denied.wait(CgroupId(3)), later).0;
        assert_eq!(told.as_deref(), Some("of another architecture"));
        denied.tell(CgroupId(4), 435, false);
        denied.tell(CgroupId(4), 9999, false);
        assert_eq!(denied.wait(CgroupId(4)).await.as_deref(), Some("syscall_9999"), "the last one kills");
        assert_eq!(denied.wait(CgroupId(4)).await, None);
        (0..KEPT as u64 + 1).for_each(|id| denied.tell(CgroupId(id), 435, false));
        assert_eq!(denied.wait(CgroupId(0)).await, None);
        assert!(denied.wait(CgroupId(KEPT as u64)).await.is_some());
    }
}
