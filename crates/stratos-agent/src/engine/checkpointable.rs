//! Whether a version can have a checkpoint: what is known before anything is tried. Whatever forbids one for all instances of
//! a version belongs here, with the reason that its author is shown.

use stratos_types::{CheckpointMode, Entry, FunctionSpec, Runtime};

/// What the process waits for when it is dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParkPoint {
    /// The runtime waits for its release.
    Release,
    /// The program's own Runtime API client waits for the answer to `restore/next` (SnapStart).
    RestoreNext,
    /// A native server listens and all its threads wait; or it waits for its release by itself, before that.
    Listening,
    /// A native program waits for its release by itself, before its Runtime API client asks for anything.
    Itself,
}

/// Where instances of a version are dumped.
///
/// # Errors
/// Why it has no checkpoint.
pub(super) fn park_point(spec: &FunctionSpec) -> Result<ParkPoint, &'static str> {
    if spec.checkpoint == CheckpointMode::Off {
        return Err("stratos.toml says checkpoint = \"off\"");
    }
    match (&spec.entry, spec.runtime) {
        (Entry::Start(_), Runtime::Native) => Ok(ParkPoint::Listening),
        (Entry::Handler(_) | Entry::Client { .. }, Runtime::Native) => Ok(ParkPoint::Itself),
        (Entry::Client { .. }, Runtime::Node24) => {
            Err("its Runtime API client runs on Node.js, where none knows the SnapStart protocol")
        }
        (Entry::Client { .. }, Runtime::Python313) => Ok(ParkPoint::RestoreNext),
        (Entry::Handler(_) | Entry::Start(_), Runtime::Node24 | Runtime::Python313) => Ok(ParkPoint::Release),
    }
}

#[cfg(test)]
mod tests {
    use stratos_types::spec::Inferred;

    use super::*;

    #[test]
    fn each_way_into_a_function_has_its_place_or_a_reason() {
        const CLIENT: &str = "start = \"python3 -m c\"\nhandler = \"a.b\"";
        for (toml, expected) in [
            ("runtime = \"node24\"\nhandler = \"i.h\"", Ok(ParkPoint::Release)),
            ("runtime = \"python3.13\"\nstart = \"python3 s.py\"", Ok(ParkPoint::Release)),
            (&format!("runtime = \"python3.13\"\n{CLIENT}"), Ok(ParkPoint::RestoreNext)),
            (
                &format!("runtime = \"python3.13\"\n{CLIENT}\ncheckpoint = \"off\""),
                Err("checkpoint = \"off\""),
            ),
            ("runtime = \"node24\"\nstart = \"node c.js\"\nhandler = \"i.h\"", Err("SnapStart protocol")),
            ("runtime = \"native\"\nhandler = \"./b\"", Ok(ParkPoint::Itself)),
            ("runtime = \"native\"\nstart = \"./b\"", Ok(ParkPoint::Listening)),
        ] {
            let spec = FunctionSpec::parse(&format!("name = \"f\"\n{toml}"), &Inferred::default()).unwrap();
            match (park_point(&spec), expected) {
                (Ok(point), Ok(expected)) => assert_eq!(point, expected, "{toml}"),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{toml}: {reason}"),
                (found, _) => panic!("{toml}: {found:?}"),
            }
        }
    }
}
