//! The machine under the node: its processors, its processes, its boots and its own log.
//!
//! What is read here is the kernel's and PID 1's. Nothing in here knows of requests; every read has a limit, and all of
//! it may block.

/// Processors of the machine that are switched on; 1 where the kernel does not tell.
pub fn cpus() -> u32 {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
    let list = online.ok().and_then(|list| stratos_types::node_config::parse_cpu_list(list.trim()));
    list.map_or(1, |list| list.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        let usable = std::thread::available_parallelism().unwrap().get() as u32;
        assert!(cpus() >= usable, "{} < {usable}", cpus());
    }
}
