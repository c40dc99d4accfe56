//! The page for people at `/ui`: a few files that are part of this program, and the headers that keep the page alone.
//!
//! The files are the same on every node and hold nothing of it, so they need no token; what the page shows it asks the
//! API for, with the token that the person gives it. Function URLs are of the same origin, and what functions answer
//! there is not trusted: so a page of theirs can neither frame this one nor keep hold of its window ([`COOP`]), may
//! not come between it and the node ([`super::headers::remove_what_reaches_beyond`]), and the page keeps the token
//! where no other page can read it. Nothing is loaded from elsewhere, and no text ever becomes HTML: the browser refuses
//! both.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use stratos_api::ErrorCode;
use stratos_types::Digest;

use super::errors::Failure;

/// What the page may do. `trusted-types 'none'` makes the browser refuse every way for text to become HTML or code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

/// A page that opened this one, or is opened by it, does not get hold of its window, unless it says the same; function
/// URLs cannot.
const COOP: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// One file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $kind:expr,)*) => {
        &[$(File { name: $name, kind: $kind, content: include_bytes!(concat!("../../ui/", $name)) },)*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The page itself.
const PAGE: &str = "index.html";

const FILES: &[File] = files! {
    "index.html": HTML,
    "style.css": CSS,
    "icon.svg": SVG,
    "app.js": JS,
    "api.js": JS,
    "chart.js": JS,
    "dom.js": JS,
    "format.js": JS,
    "table.js": JS,
    "view_failures.js": JS,
    "view_function.js": JS,
    "view_functions.js": JS,
    "view_invocation.js": JS,
    "view_node.js": JS,
    "view_processes.js": JS,
    "view_syscalls.js": JS,
    "waterfall.js": JS,
};

/// A file as it is sent.
struct Sent {
    kind: HeaderValue,
    etag: HeaderValue,
    plain: Bytes,
    gzip: Bytes,
}

/// All of them, in the order of [`FILES`]; made at the first request.
static SENT: LazyLock<Vec<Sent>> = LazyLock::new(|| FILES.iter().map(Sent::new).collect());

impl Sent {
    fn new(file: &File) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(file.content).expect("a Vec takes every write");
        let etag = format!("\"{}\"", &Digest::of(file.content).hex()[..16]);
        Self {
            kind: HeaderValue::from_static(file.kind),
            etag: HeaderValue::from_str(&etag).expect("hexadecimal digits are a header value"),
            plain: Bytes::from_static(file.content),
            gzip: gzip.finish().expect("a Vec takes every write").into(),
        }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = values(asked, header::IF_NONE_MATCH).any(|tag| tag.trim_start_matches("W/") == self.etag);
        let takes_gzip = values(asked, header::ACCEPT_ENCODING).any(is_gzip);
        let mut response = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false if takes_gzip => self.gzip.clone().into_response(),
            false => self.plain.clone().into_response(),
        };
        let headers = response.headers_mut();
        if !known {
            headers.insert(header::CONTENT_TYPE, self.kind.clone());
            if takes_gzip {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        headers.insert(header::ETAG, self.etag.clone());
        for (name, value) in [
            // Asked for again each time, and not sent again: after an update the page is of one piece.
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (COOP, "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The members of a header that is a list.
fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Whether a member of `Accept-Encoding` asks for gzip: `gzip`, `gzip;q=0.5`, not `gzip;q=0`.
fn is_gzip(member: &str) -> bool {
    let mut parts = member.split(';').map(str::trim);
    let refused = |weight: &str| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
    parts.next() == Some("gzip") && !parts.any(refused)
}

fn sent(name: &str) -> Option<&'static Sent> {
    SENT.get(FILES.iter().position(|file| file.name == name)?)
}

/// The page for people.
#[utoipa::path(get, path = "/ui", tag = "node", security(()),
    responses((status = 200, description = "A page that shows the node; it asks for the token itself",
               body = String, content_type = "text/html"),
              (status = 304, description = "It is as `If-None-Match` says")))]
pub(super) async fn page(headers: HeaderMap) -> Response {
    sent(PAGE).expect("the page is among the files").answer(&headers)
}

/// What the page is made of.
#[utoipa::path(get, path = "/ui/{file}", tag = "node", security(()),
    params(("file" = String, Path, description = "Name of the file")),
    responses((status = 200, description = "Script, style or picture", body = String),
              (status = 304, description = "It is as `If-None-Match` says"),
              (status = 404, description = "The page has no such file", body = stratos_api::ApiError)))]
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match sent(&name) {
        Some(file) => file.answer(&headers),
        None => Failure::new(ErrorCode::NotFound, "the page has no such file")
            .hint("the page itself is at /ui")
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// What all files may take together, bytes.
    const MAX_PAGE: usize = 250 * 1000;

    fn asked(headers: &[(HeaderName, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    async fn body(response: Response) -> Vec<u8> {
        axum::body::to_bytes(response.into_body(), MAX_PAGE).await.unwrap().into()
    }

    #[test]
    fn the_page_takes_at_most_250_kb() {
        let total: usize = FILES.iter().map(|file| file.content.len()).sum();
        assert!(total <= MAX_PAGE, "{total} bytes");
    }

    /// Every file of the folder is served, and what the files name is there.
    #[test]
    fn the_page_is_whole() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/ui");
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut served: Vec<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        names.sort();
        served.sort();
        assert_eq!(names, served);
        for file in FILES {
            let text = std::str::from_utf8(file.content).unwrap();
            for (start, end) in [("from './", '\''), ("\"/ui/", '"')] {
                for (at, _) in text.match_indices(start) {
                    let name = text[at + start.len()..].split(end).next().unwrap();
                    assert!(sent(name).is_some(), "{} names {name}", file.name);
                }
            }
        }
    }

    /// No inline script or style, no way for text to become HTML or code, nothing from elsewhere. The browser's policy
    /// refuses all of it too; here it is found without one.
    #[test]
    fn nothing_in_the_page_needs_a_laxer_policy() {
        for file in FILES {
            let text = std::str::from_utf8(file.content).unwrap();
            for never in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "Function(",
                "<style",
                "style=\"",
                "onclick=",
                "onload=",
                "javascript:",
                "https://",
                "srcdoc",
            ] {
                assert!(!text.contains(never), "{} holds {never}", file.name);
            }
            // The name of the namespace is no address.
            let addresses = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!addresses.contains("http://"), "{} holds an address", file.name);
            assert!(file.name == PAGE || !text.contains("<script"), "{}", file.name);
        }
        let page = std::str::from_utf8(FILES[0].content).unwrap();
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=\"/ui/").count()
        );
    }

    #[tokio::test]
    async fn files_are_sent_once_and_compressed_for_those_who_take_it() {
        let plain = page(HeaderMap::new()).await;
        assert_eq!(plain.headers()[header::CONTENT_TYPE], HTML);
        assert_eq!(plain.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let tag = plain.headers()[header::ETAG].to_str().unwrap().to_owned();
        let text = body(plain).await;
        let packed = page(asked(&[(header::ACCEPT_ENCODING, "br, gzip")])).await;
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        let packed = body(packed).await;
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == text && packed.len() < text.len());
        let refused = page(asked(&[(header::ACCEPT_ENCODING, "gzip;q=0")])).await;
        assert!(!refused.headers().contains_key(header::CONTENT_ENCODING));
        for tags in [tag.clone(), format!("\"old\", W/{tag}")] {
            let known = page(asked(&[(header::IF_NONE_MATCH, &tags)])).await;
            assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
            assert!(known.headers().contains_key(header::ETAG) && body(known).await.is_empty());
        }
        assert_eq!(file(Path("app.js".into()), HeaderMap::new()).await.headers()[header::CONTENT_TYPE], JS);
        assert_eq!(file(Path("../main.rs".into()), HeaderMap::new()).await.status(), 404);
    }
}
