//! Who is let in: tokens, public functions, TLS.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::json;
use stratos_api::client::{Call, Client, ClientError, Endpoint};
use stratos_tests::{Package, Session, need_root, tcp};

use super::{ECHO, get, send};

#[tokio::test(flavor = "multi_thread")]
async fn tcp_answers_strangers_with_one_and_the_same_refusal() {
    if !need_root("tcp_answers_strangers_with_one_and_the_same_refusal") {
        return;
    }
    let node = tcp::start(&[]).await;
    node.deploy(&Package::node("secret", ECHO)).await;
    let stranger = tcp::client(&node, None);
    let guesser = tcp::client(&node, Some("0123456789012345678901234567890123456789012"));
    let mut refusals = BTreeSet::new();
    for path in [
        "/v1/functions",
        "/v1/functions/secret",
        "/v1/functions/nobody",
        "/v1/nowhere",
        "/f/secret/",
        "/f/x/",
    ] {
        for client in [&stranger, &guesser] {
            let answer = send(client, get(path)).await.expect("an answer");
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (StatusCode::UNAUTHORIZED, "Bearer")
            );
            refusals.insert(answer.text());
        }
    }
    assert_eq!(refusals.len(), 1, "nobody learns which functions there are: {refusals:?}");
    let known = tcp::client(&node, Some(&tcp::token(&node)));
    let answer = send(&known, get("/v1/functions/secret")).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);

    // Health is for load balancers too, who are told no more than that it is there.
    let answer = send(&stranger, get("/v1/health")).await.expect("an answer");
    assert_eq!(answer.json(), json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }));
    let answer = send(&known, get("/v1/health")).await.expect("an answer");
    assert!(answer.json()["layers"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn public_functions_answer_strangers() {
    if !need_root("public_functions_answer_strangers") {
        return;
    }
    let node = tcp::start(&[]).await;
    let code = "export const handler = async (event) => event.headers.authorization ?? 'none';";
    node.deploy(&Package::node("open", code).setting("public = true")).await;
    node.deploy(&Package::node("closed", code)).await;
    let (stranger, known) = (tcp::client(&node, None), tcp::client(&node, Some(&tcp::token(&node))));
    for (client, path, status) in [
        (&stranger, "/f/open/", 200),
        (&stranger, "/f/closed/", 401),
        (&stranger, "/v1/functions/open/invoke", 401),
        (&known, "/f/closed/", 200),
    ] {
        let answer = send(client, Call::new(Method::POST, path, "")).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        // The node's token is not for functions to see.
        assert!(status != 200 || answer.text() == "\"none\"", "{path}: {}", answer.text());
    }
    let own = get("/f/open/").header("authorization", "Bearer of-the-function");
    let answer = send(&stranger, own).await.expect("an answer");
    assert_eq!(answer.text(), "\"Bearer of-the-function\"", "a function may have tokens of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_to_those_who_trust_the_certificate() {
    if !need_root("tls_is_spoken_to_those_who_trust_the_certificate") {
        return;
    }
    let files = tempfile::tempdir().expect("a temporary folder");
    let [certificate, key, other] = ["node.pem", "node.key", "other.pem"].map(|name| files.path().join(name));
    let make = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let made = make();
    std::fs::write(&certificate, made.cert.pem()).expect("a writable folder");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a writable folder");
    std::fs::write(&other, make().cert.pem()).expect("a writable folder");
    let [certificate, key, other] = [certificate, key, other].map(|path| path.display().to_string());
    let node = tcp::start(&["--tls-cert", &certificate, "--tls-key", &key]).await;

    let address = tcp::address(&node).to_string();
    let token = tcp::token(&node);
    let client = Client::new(Endpoint::Https(address.clone()), Some(&token)).expect("a client");
    let trusting = client.clone().trust(certificate.as_ref()).expect("a certificate to trust");
    assert_eq!(send(&trusting, get("/v1/functions")).await.expect("an answer").text(), "[]");
    let doubting = client.trust(other.as_ref()).expect("a certificate to trust");
    assert!(matches!(send(&doubting, get("/v1/functions")).await, Err(ClientError::Connect { .. })));
    let plain = tcp::client(&node, Some(&token));
    assert!(send(&plain, get("/v1/functions")).await.is_err(), "what is not TLS is not answered");

    let session = Session::without_node();
    session.write("token", &token);
    let values = [("[address]", address.as_str()), ("[cert]", &certificate), ("[other]", &other)];
    session.check_with(
        &values,
        r#"
$ stratos ls --node https://[address] --token-file token --ca [cert]
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos ls --node https://[address] --token-file token --ca [other] 2>&1 | head -1
error: cannot reach the node at https://[address]
$ stratos ls --node https://[address] --token-file token
! error: cannot set up TLS: no certificate to trust; give the node's with --ca FILE
[exit 1]
"#,
    );
}
