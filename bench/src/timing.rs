//! The phases that a node tells in `Server-Timing`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// The phases of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Waited for an instance.
    pub(crate) queue: Duration,
    /// Sandbox made, until the runtime's first instruction.
    pub(crate) sandbox: Duration,
    /// The runtime's start, until the first line of code above it.
    pub(crate) runtime: Duration,
    /// The function's start, until it could take the request.
    pub(crate) init: Duration,
    /// The request itself.
    pub(crate) handler: Duration,
}

impl Phases {
    /// Reads the phases out of a `Server-Timing` value such as `queue;dur=0.1, sandbox;dur=2.3, ..` (ms).
    ///
    /// # Errors
    /// When a phase is missing or has no duration.
    pub(crate) fn parse(value: &str) -> Result<Self> {
        let phase = |name: &str| {
            let metrics = value.split(',').map(|metric| metric.trim().split(';').map(str::trim));
            let mut parameters = metrics
                .filter_map(|mut metric| (metric.next()? == name).then_some(metric))
                .next_back()
                .with_context(|| format!("`{name}` is missing in Server-Timing `{value}`"))?;
            let ms = parameters.find_map(|parameter| parameter.strip_prefix("dur="));
            let ms = ms.and_then(|ms| ms.parse::<f64>().ok()).filter(|ms| ms.is_finite() && *ms >= 0.0);
            let ms = ms.with_context(|| format!("`{name}` has no duration in Server-Timing `{value}`"))?;
            anyhow::Ok(Duration::from_secs_f64(ms / 1e3))
        };
        let (queue, sandbox) = (phase("queue")?, phase("sandbox")?);
        Ok(Self {
            queue,
            sandbox,
            runtime: phase("runtime")?,
            init: phase("init")?,
            handler: phase("handler")?,
        })
    }

    /// What a request cost beside the runtime's and the function's own time. `total` is the client's.
    pub(crate) fn sandbox_share(&self, total: Duration) -> Duration {
        total.saturating_sub(self.runtime + self.init + self.handler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_the_header() {
        let header = "queue;dur=0.100, sandbox;dur=2.345, runtime;dur=20.000, init;dur=0.007, handler;dur=1.5, \
                      total;dur=23.952";
        let phases = Phases::parse(header).unwrap();
        assert_eq!(phases.sandbox, Duration::from_micros(2345));
        let share = phases.sandbox_share(Duration::from_millis(25));
        assert_eq!(share, Duration::from_micros(25_000 - 20_000 - 7 - 1_500));
        // A function's own timings stand before the node's.
        let both = format!("init;desc=\"mine\";dur=9, db;dur=3, {header}");
        assert_eq!(Phases::parse(&both).unwrap(), phases);
        for wrong in ["", "queue;dur=1", "queue, sandbox;dur=1, runtime;dur=1, init;dur=1, handler;dur=1"] {
            assert!(Phases::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Phases::parse(&header.replace("20.000", "-1")).is_err());
    }
}
