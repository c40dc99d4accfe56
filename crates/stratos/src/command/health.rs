//! `stratos node health`.

use serde_json::Value;
use stratos_api::{Health, path};

use crate::failure::Result;
use crate::node::Node;
use crate::output::{Output, note, size};

/// Runs the command.
pub(crate) async fn run(node: &Node, output: Output) -> Result<()> {
    let answer: Value = node.get(path::HEALTH).await?;
    if output.json {
        return output.document(&answer);
    }
    let Ok(health) = serde_json::from_value::<Health>(answer.clone()) else {
        // Without its token a node tells that it is there, and no more.
        let text = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
        note(
            "note: a node tells the rest to callers with its token (--token, --token-file or STRATOS_TOKEN)",
        );
        return output.line(&format!("status     {}\nversion    {}", text("status"), text("version")));
    };
    let mut text = String::new();
    let mut field = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    field("node", node.endpoint().to_string());
    field("status", health.status);
    field("version", health.version);
    field("uptime", format!("{} s", health.uptime_s));
    field("instances", format!("{} ({} requests waiting)", health.instances, health.queued));
    field("memory", format!("{} (the agent)", size(health.agent_rss_kb * 1024)));
    for layer in health.layers {
        field("layer", format!("{} {}", layer.name, layer.version));
    }
    for feature in health.missing {
        field("missing", format!("{}: {}", feature.what, feature.consequence));
    }
    output.bytes(text.as_bytes())
}
