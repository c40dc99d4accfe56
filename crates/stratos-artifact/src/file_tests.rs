use std::io::{Cursor, Write as _};

use super::*;
use crate::{CheckpointPart, Code, RuntimePart};

fn temporary(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn manifest() -> Manifest {
    let nothing = Digest::of(b"");
    Manifest {
        function: "hello".into(),
        spec: "name = \"hello\"\n".into(),
        code: Code {
            bytes: 0,
            digest: nothing,
            image: Digest::of(b"image"),
            dependencies: vec![("left-pad".into(), "1.3.0".into(), "sha512-x".into())],
        },
        runtime: RuntimePart {
            name: "node24".into(),
            version: "24.19.0".into(),
            inputs_digest: nothing,
            image_digest: Digest::of(b"layer"),
            size: 5,
            included: false,
        },
        checkpoint: Some(CheckpointPart {
            bytes: 0,
            digest: nothing,
            kernel: "6.18 #1".into(),
            processor: "x 6/85".into(),
            cpu_flags: vec!["avx2".into()],
        }),
        no_checkpoint: None,
        built_at: "2026-01-01T00:00:00Z".into(),
        built_by: "0.1.0".into(),
    }
}

/// An artifact with small sections.
fn written(key: Option<&SecretKey>) -> Vec<u8> {
    let (code, runtime, checkpoint) =
        (temporary(b"code"), temporary(b"layer"), temporary(&[7; PAGE as usize + 1]));
    let sources = Sources { code: &code, runtime: Some(&runtime), checkpoint: Some(&checkpoint) };
    let mut file = tempfile::tempfile().unwrap();
    write(&mut file, manifest(), &sources).unwrap();
    if let Some(key) = key {
        sign(file.try_clone().unwrap(), key).unwrap();
    }
    let mut bytes = Vec::new();
    At { file: &file, position: 0 }.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Everything that must hold before an artifact is used.
fn checked(bytes: &[u8], key: &PublicKey) -> Result<Artifact, ArtifactError> {
    let artifact = Artifact::open(temporary(bytes))?;
    artifact.verify()?;
    let signature = artifact.signature().copied();
    let signature = signature.ok_or(ArtifactError::SignatureBlock { problem: "there is none" })?;
    artifact.check_signature(&signature, key)?;
    Ok(artifact)
}

#[test]
fn what_is_written_is_read() {
    let (key, _) = SecretKey::generate().unwrap();
    let bytes = written(Some(&key));
    let artifact = checked(&bytes, &key.public()).unwrap();
    let read = |section| {
        let mut bytes = Vec::new();
        artifact.section(section).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(Section::Code), b"code");
    assert_eq!(read(Section::Runtime), b"layer");
    assert_eq!(read(Section::Checkpoint), [7; PAGE as usize + 1]);
    assert_eq!(artifact.manifest().checkpoint.as_ref().unwrap().bytes, PAGE + 1);
    assert_eq!(artifact.head.end + SIGNATURE_BYTES as u64, bytes.len() as u64);
    // Signing again replaces the signature.
    let file = temporary(&bytes);
    let (other, _) = SecretKey::generate().unwrap();
    sign(file.try_clone().unwrap(), &other).unwrap();
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    let artifact = Artifact::open(file).unwrap();
    assert_eq!(artifact.signature().unwrap().key, other.public().id());
}

#[test]
fn without_a_signature_it_is_whole_and_unsigned() {
    let artifact = Artifact::open(temporary(&written(None))).unwrap();
    artifact.verify().unwrap();
    assert!(artifact.signature().is_none());
}

#[test]
fn sections_that_are_left_out_are_not_there() {
    let code = temporary(b"code");
    let without = Manifest {
        checkpoint: None,
        no_checkpoint: Some(format!("two\nlines and {}", "more".repeat(2000))),
        ..manifest()
    };
    let mut file = tempfile::tempfile().unwrap();
    write(&mut file, without, &Sources { code: &code, runtime: None, checkpoint: None }).unwrap();
    let artifact = Artifact::open(file).unwrap();
    artifact.verify().unwrap();
    assert!(artifact.section(Section::Runtime).is_none() && artifact.section(Section::Checkpoint).is_none());
    let reason = artifact.manifest().no_checkpoint.clone().unwrap();
    assert!(reason.starts_with("two lines and more") && reason.len() == 4096, "{reason}");
}

/// No byte of a signed artifact can be changed without being noticed.
#[test]
fn every_flipped_byte_is_refused() {
    let (key, _) = SecretKey::generate().unwrap();
    let good = written(Some(&key));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(checked(&bad, &key.public()).is_err(), "byte {at}");
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    let (key, _) = SecretKey::generate().unwrap();
    let good = written(Some(&key));
    for length in 0..=good.len() + 1 {
        let mut bad = good.clone();
        bad.resize(length, 0);
        assert_eq!(checked(&bad, &key.public()).is_ok(), length == good.len(), "{length} bytes");
    }
}

#[test]
fn what_is_damaged_is_named() {
    let (key, _) = SecretKey::generate().unwrap();
    let good = written(Some(&key));
    let sections_at = 4096;
    for (at, says) in [
        (0, "the artifact's header is damaged: it does not begin with its magic number"),
        (8, "the artifact's header is damaged: it has version 0, and this is for version 1"),
        (128, "the artifact's manifest is damaged"),
        (sections_at - 1, "the artifact's header is damaged: the bytes after its manifest are not zero"),
        (sections_at, "the artifact's section `code` is damaged"),
        (sections_at + 4, "the bytes after its section `code` are not zero"),
        (sections_at + 4096, "the artifact's section `runtime` is damaged"),
        (sections_at + 8192, "the artifact's section `checkpoint` is damaged"),
        (good.len() - 128, "the artifact's signature is damaged: it does not begin with its magic number"),
        (good.len() - 50, "the artifact's signature is not one that the key"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let error = checked(&bad, &key.public()).unwrap_err().to_string();
        assert!(error.contains(says), "{at}: {error}");
    }
    let mut short = good;
    short.truncate(sections_at + 5000);
    let error = checked(&short, &key.public()).unwrap_err().to_string();
    assert!(error.contains("it has 9096 bytes, and should have 20480 and a signature"), "{error}");
    // Nobody signs it either.
    assert!(sign(temporary(&short), &key).is_err());
}

/// A signature is of one artifact: moved to another it is worth nothing.
#[test]
fn a_signature_of_another_artifact_is_refused() {
    let (key, _) = SecretKey::generate().unwrap();
    let (code, other) = (temporary(b"code"), temporary(b"evil"));
    let bytes = |code: &File| {
        let plain = Manifest { checkpoint: None, ..manifest() };
        let mut file = tempfile::tempfile().unwrap();
        write(&mut file, plain, &Sources { code, runtime: None, checkpoint: None }).unwrap();
        let signed = sign(file.try_clone().unwrap(), &key).unwrap();
        let mut bytes = Vec::new();
        At { file: &file, position: 0 }.read_to_end(&mut bytes).unwrap();
        (bytes, signed)
    };
    let ((good, signature), (mut evil, _)) = (bytes(&code), bytes(&other));
    checked(&good, &key.public()).unwrap();
    let end = evil.len() - SIGNATURE_BYTES;
    evil[end..].copy_from_slice(&signature.encode());
    let error = checked(&evil, &key.public()).unwrap_err();
    assert!(matches!(error, ArtifactError::Signature { .. }), "{error}");
}

/// With its digest made right again, the manifest is refused, or says something as sound.
#[test]
fn changed_manifests_with_the_right_digest_are_refused_or_sound() {
    use sha2::{Digest as _, Sha256};
    let good = written(None);
    let bytes = usize::try_from(u64::from_le_bytes(good[16..24].try_into().unwrap())).unwrap();
    let mut refused = 0;
    for at in 0..bytes {
        let mut bad = good.clone();
        bad[HEADER_BYTES + at] ^= 1 << (at % 7);
        let digest = Sha256::digest(&bad[HEADER_BYTES..HEADER_BYTES + bytes]);
        bad[40..72].copy_from_slice(&digest);
        match Head::read(&mut Cursor::new(&bad), bad.len() as u64) {
            Ok(head) => assert_eq!(head.sections_at + head.manifest.sections_bytes(), head.end),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > bytes / 2, "{refused} of {bytes}");
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    type Change = fn(&mut Manifest);
    let cases: &[(Change, &str)] = &[
        (|m| m.function = "../x".into(), "`function` is no name"),
        (|m| m.runtime.name = "../etc".into(), "`runtime.name` is no name"),
        (|m| m.runtime.name = ".hidden".into(), "`runtime.name` is no name"),
        (|m| m.runtime.size = u64::MAX, "the size of its runtime layer"),
        (|m| m.code.bytes = u64::MAX, "the size of its code"),
        (|m| m.code.bytes = 0, "the size of its code"),
        (|m| m.checkpoint.as_mut().unwrap().bytes = u64::MAX, "the size of its checkpoint"),
        (|m| m.checkpoint.as_mut().unwrap().kernel = "6\u{1b}[2J".into(), "where its checkpoint was made"),
        (|m| m.no_checkpoint = Some("it sleeps".into()), "a checkpoint, and a reason why there is none"),
        (|m| m.code.dependencies[0].1.clear(), "a dependency has no name, version or digest"),
    ];
    for (change, problem) in cases {
        let mut changed = manifest();
        changed.code.bytes = 4;
        changed.checkpoint.as_mut().unwrap().bytes = 4;
        Manifest::parse(&serde_json::to_vec(&changed).unwrap()).unwrap();
        change(&mut changed);
        let error = Manifest::parse(&serde_json::to_vec(&changed).unwrap()).unwrap_err().to_string();
        assert!(error.ends_with(problem), "{error}");
    }
    let error = Manifest::parse(b"{\"function\":\"f\",\"more\":1}").unwrap_err();
    assert!(matches!(error, ArtifactError::Manifest { .. }), "{error}");
}

/// Else its mutations would be refused for what they have in common.
#[test]
fn what_the_fuzzer_begins_with_is_sound() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/artifact");
    let read = |name: &str| std::fs::read(format!("{corpus}/{name}")).unwrap();
    let key = PublicKey::from_pem(std::str::from_utf8(&read("key.pem")).unwrap()).unwrap();
    checked(&read("signed"), &key).unwrap();
    Manifest::parse(&read("manifest.json")).unwrap();
}
