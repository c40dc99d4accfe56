//! `stratos node`, and `make run`'s program.

use std::process::Command;

use stratos_tests::guest::PATIENCE;
use stratos_tests::{Session, Workshop, program};
use stratos_types::KernelChoice;

/// The program behind `make run`: three runtimes answer, one table, the machine is off.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_its_table() {
    let Some(_workshop) = Workshop::open("the_demo_prints_its_table", KernelChoice::Debian).await else {
        return;
    };
    let output = Command::new(program("demo")).output().expect("the demo runs");
    let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}{said}");
    for (function, runtime) in
        [("hello-node", "node24"), ("hello-python", "python3.13"), ("hello-native", "native")]
    {
        let row = table.lines().find(|line| line.starts_with(function)).unwrap_or_else(|| panic!("{table}"));
        assert!(row.contains(runtime) && row.contains("Hello, newcomer!"), "{row}");
        // What the runtimes restore, a native program starts.
        let restored = row.split_whitespace().nth(8).unwrap_or_default();
        assert_eq!(restored.parse::<f64>().is_ok(), runtime != "native", "{row}");
    }
    assert!(said.ends_with("the machine is off\n"), "{said}");
}

/// Everything that a person may want of a node from afar, as it is typed and printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_administered_from_afar() {
    let test = "a_node_is_administered_from_afar";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let guest = workshop.boot(workshop.machine().reboots()).await;
    let session = Session::without_node();
    let (stratos, kernel) = (guest.options(), &workshop.image().manifest().kernel_version);
    let address = stratos[1].clone();
    let stratos = format!("stratos {}", stratos.join(" "));
    let names = [("STRATOS", stratos.as_str()), ("ADDRESS", &address), ("KERNEL", kernel)];
    session.check_with(
        &names,
        r#"
$ until STRATOS node status | grep -q '^time *ready'; do sleep 0.2; done
$ STRATOS node status | sed '/^boot/,$d' | grep -v -e ^uptime -e ^swap -e ^waiting
node  stratos
version  StratOS [version], Linux KERNEL
cpus  2
memory  [n] MiB of [n] MiB available
disk  [n] GiB of [n] GiB free
$ STRATOS node status | sed -n '/^SERVICE/,/^$/p' | awk 'NF { print $1, $2, $4, $5 }'
SERVICE STATE RESTARTS LAST
network ready 0 -
stratosd ready 0 -
time ready 0 -
$ STRATOS node status | sed -n '/^ABILITY/,$p' | sed 's/,.*//'
ABILITY  HOW
verified root  yes  root-a on vda2
state  yes  [n] MiB on vda8
zram  yes  [n] MiB of swap in at most [n] MiB
reserved CPUs  no  cpu.reserved is not configured
cgroup limits  yes  cpuset cpu io memory pids
layers  yes  native node24 python3.13 tools
$ STRATOS node tree | grep -o 'service [a-z]*$'
service network
service stratosd
service time
$ STRATOS node boot | sed -n '4,$s/^\([a-z-]\+\)  .*/\1/p' | xargs echo
kernel mounts modules disk verity root sysctl state log clock machine-id config hostname zram units cgroups layers loopback seal debug services ready
$ STRATOS node logs --source init --tail 1
[time] init  time is ready
$ STRATOS node poweroff
! error: will not switch off the node without being told to
! hint: add --yes
[exit 2]
$ STRATOS node reboot --yes
ADDRESS is back after [n] s
! waiting for the node to be back ...
$ STRATOS node boot --last 2 --json | grep -o '"number":[0-9]*'
"number":2
"number":1
$ STRATOS node poweroff --yes
ADDRESS is away
! waiting for the node to be away ...
"#,
    );
    let status = guest.running.ended(PATIENCE).await.expect("it switches itself off");
    assert!(status.success(), "{status}");
}
