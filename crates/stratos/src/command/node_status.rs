//! `stratos node status`.

use stratos_api::node::{InitStatus, NodeStatus, Pressure};
use stratos_api::path;

use crate::failure::Result;
use crate::node::Node;
use crate::output::{Output, Table, age, ms, size};

/// Runs the command.
pub(crate) async fn run(node: &Node, output: Output) -> Result<()> {
    let status: NodeStatus = node.get(path::NODE).await?;
    if output.json {
        return output.document(&status);
    }
    output.bytes(render(&status).as_bytes())
}

fn render(status: &NodeStatus) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    let kb = |kb: u64| size(kb * 1024);
    field("node", status.hostname.clone());
    field("version", format!("StratOS {}, Linux {}", status.version, status.kernel));
    field("uptime", age(status.uptime_s));
    field("cpus", status.cpus.to_string());
    field(
        "memory",
        format!("{} of {} available", kb(status.memory_available_kb), kb(status.memory_total_kb)),
    );
    if status.swap_total_kb > 0 {
        let used = format!("{} of {} used", kb(status.swap_used_kb), kb(status.swap_total_kb));
        field("swap", format!("{used}, {} of memory compressed", kb(status.zram_kb)));
    }
    field("disk", format!("{} of {} free", kb(status.state_free_kb), kb(status.state_total_kb)));
    if let Some(pressure) = status.pressure {
        let Pressure { cpu_some, memory_some, io_some, .. } = pressure;
        let waited = format!("CPU {cpu_some:.1} %, memory {memory_some:.1} %, disk {io_some:.1} %");
        field("waiting", format!("{waited} of the last 10 s"));
    }
    if status.init.is_none() {
        let why = match status.managed {
            true => "does not answer",
            false => "another one than StratOS's own: no boots, no services, no shutdown",
        };
        field("init", why.to_owned());
    }
    status.init.iter().for_each(|init| render_init(&mut text, init));
    text
}

fn render_init(text: &mut String, init: &InitStatus) {
    let ready = match init.boot.ready_us {
        Some(us) => format!("ready after {} ms (kernel {} ms)", ms(us), ms(init.boot.kernel_us)),
        None => "under way".to_owned(),
    };
    let root = match init.boot.root_hash.as_str() {
        "" => "not verified".to_owned(),
        hash => format!("verified, {hash}"),
    };
    text.push_str(&format!("{:<11}{}, {ready}\n", "boot", init.boot.number));
    text.push_str(&format!("{:<11}{root}\n", "root"));
    text.push_str(&format!("{:<11}{} of memory\n", "init", size(init.init_rss_kb * 1024)));
    let mut table = Table::new(&["SERVICE", "STATE", "PID", "RESTARTS", "LAST EXIT"], &[2, 3]);
    for service in &init.services {
        let pid = service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let exit = service.last_exit.clone().unwrap_or_else(|| "-".to_owned());
        table.row([service.name.clone(), service.state.clone(), pid, service.restarts.to_string(), exit]);
    }
    text.push_str(&format!("\n{}", table.render()));
    let mut table = Table::new(&["ABILITY", "", "HOW"], &[]);
    for ability in &init.abilities {
        let there = if ability.available { "yes" } else { "no" };
        table.row([ability.name.clone(), there.to_owned(), ability.detail.clone()]);
    }
    text.push_str(&format!("\n{}", table.render()));
}

#[cfg(test)]
pub(crate) mod tests {
    use stratos_api::node::{Ability, BootRecord, CpuTimes, ServiceStatus};

    use super::*;

    pub(crate) fn status(init: Option<InitStatus>) -> NodeStatus {
        NodeStatus {
            hostname: "node-1".into(),
            version: "0.1.0".into(),
            managed: init.is_some(),
            kernel: "6.12.1".into(),
            uptime_s: 3700,
            cpus: 2,
            cpu: CpuTimes::default(),
            pressure: None,
            memory_total_kb: 262_144,
            memory_available_kb: 131_072,
            swap_used_kb: 0,
            swap_total_kb: 0,
            zram_kb: 0,
            state_free_kb: 1024,
            state_total_kb: 2048,
            init,
        }
    }

    #[test]
    fn a_managed_node_tells_more() {
        let other = render(&status(None));
        assert!(other.contains("init       another one than StratOS's own"), "{other}");
        assert!(!other.contains("swap"));
        let init = InitStatus {
            boot: BootRecord {
                number: 4,
                kernel_us: 2_000_000,
                ready_us: Some(2_500_000),
                ..BootRecord::default()
            },
            services: vec![ServiceStatus {
                name: "stratosd".into(),
                state: "ready".into(),
                pid: Some(80),
                started_us: Some(1),
                restarts: 1,
                last_exit: Some("killed by SIGKILL".into()),
            }],
            abilities: vec![Ability {
                name: "reserved CPUs".into(),
                available: false,
                detail: "one CPU".into(),
            }],
            init_rss_kb: 2048,
        };
        let pressure = Some(Pressure { cpu_some: 12.34, io_some: 0.5, ..Pressure::default() });
        let own = NodeStatus { swap_total_kb: 65_536, zram_kb: 512, pressure, ..status(Some(init)) };
        let own = render(&own);
        let want = "\
node       node-1
version    StratOS 0.1.0, Linux 6.12.1
uptime     61 min
cpus       2
memory     128 MiB of 256 MiB available
swap       0 B of 64 MiB used, 512 KiB of memory compressed
disk       1.0 MiB of 2.0 MiB free
waiting    CPU 12.3 %, memory 0.0 %, disk 0.5 % of the last 10 s
boot       4, ready after 2500 ms (kernel 2000 ms)
root       not verified
init       2.0 MiB of memory

SERVICE   STATE  PID  RESTARTS  LAST EXIT
stratosd  ready   80         1  killed by SIGKILL

ABILITY            HOW
reserved CPUs  no  one CPU
";
        assert_eq!(own, want, "\n{own}");
    }
}
