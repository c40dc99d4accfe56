//! One module per command, or per group of commands that share their answer.

mod build;
mod dead_letters;
mod deploy;
mod dev;
mod functions;
mod health;
mod image;
mod invocations;
mod invoke;
mod kernel;
mod key;
mod keyboard;
mod layer;
mod logs;
mod machine;
mod new;
mod node_boot;
mod node_end;
mod node_features;
mod node_logs;
mod node_status;
mod node_tree;
mod secret;
mod secret_value;
mod signals;
mod top;
mod trace;
mod ui;
mod watch;

use clap::CommandFactory;

use crate::args::{Cli, Command, ImageCommand, KeyCommand, LayerCommand, NodeCommand};
use crate::failure::Result;
use crate::node::Node;
use crate::output::Output;

/// Does what the command line asks for.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let output = Output { json: cli.json };
    let node = || cli.node.open();
    match cli.command {
        Command::New(args) => new::run(&args, output),
        Command::Deploy(args) => deploy::run(&args, &node()?, output).await,
        Command::Build(args) => build::run(&args, &node()?, output).await,
        Command::Key(KeyCommand::Generate(args)) => key::generate(&args, output),
        Command::Key(KeyCommand::Show(args)) => key::show(&args, output),
        Command::Key(KeyCommand::Enroll(args)) => key::enroll(&args, &node()?, output).await,
        Command::Key(KeyCommand::List) => key::list(&node()?, output).await,
        Command::Key(KeyCommand::Remove(args)) => key::remove(&args, &node()?, output).await,
        Command::Invoke(args) => invoke::run(args, &node()?, output).await,
        Command::Ls => functions::list(&node()?, output).await,
        Command::Show(args) => functions::show(&args.name, &node()?, output).await,
        Command::Versions(args) => functions::versions(&args.name, &node()?, output).await,
        Command::Rollback(args) => functions::rollback(&args, &node()?, output).await,
        Command::Rm(args) => functions::remove(&args, &node()?, output).await,
        Command::Logs(args) => logs::run(&args, &node()?, output).await,
        Command::Top(args) => top::run(&args, &node()?, output).await,
        Command::Invocations(args) => invocations::run(&args, &node()?, output).await,
        Command::Trace(args) => trace::run(&args, &node()?, output).await,
        Command::DeadLetters(args) => dead_letters::run(&args, &node()?, output).await,
        Command::Secret(command) => secret::run(command, &node()?, output).await,
        Command::Dev(args) => dev::run(&args, &cli.node, output).await,
        Command::Layer(LayerCommand::Build(args)) => layer::build(args, output),
        Command::Layer(LayerCommand::Lock(args)) => layer::lock(args, output),
        Command::Layer(LayerCommand::Ls) => layer::list(output),
        Command::Image(ImageCommand::Build(args)) => image::build(args, output),
        Command::Image(ImageCommand::Kernel(args)) => kernel::run(args, output),
        Command::Image(ImageCommand::Ls) => image::list(output),
        Command::Image(ImageCommand::Boot(args)) => machine::boot(&args, output).await,
        Command::Image(ImageCommand::Snapshot(args)) => machine::snapshot(&args, output).await,
        Command::Node(command) => run_node(command, &node()?, output).await,
        Command::Ui(args) => ui::run(&args, &node()?, output).await,
        Command::Completions { shell } => {
            // Made in memory first, so that a closed pipe is met by `Output` and not by a panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stratos", &mut script);
            output.bytes(&script)
        }
    }
}

async fn run_node(command: NodeCommand, node: &Node, output: Output) -> Result<()> {
    match command {
        NodeCommand::Health => health::run(node, output).await,
        NodeCommand::Status => node_status::run(node, output).await,
        NodeCommand::Features => node_features::run(node, output).await,
        NodeCommand::Logs(args) => node_logs::run(&args, node, output).await,
        NodeCommand::Tree(args) => node_tree::run(&args, node, output).await,
        NodeCommand::Boot(args) => node_boot::run(&args, node, output).await,
        NodeCommand::Reboot(args) => node_end::reboot(&args, node, output).await,
        NodeCommand::PowerOff(args) => node_end::power_off(&args, node, output).await,
    }
}
