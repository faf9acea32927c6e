//! A model or an adapter by name: a folder on this machine, or an id on the Hugging Face Hub.
//!
//! What looks like a path is never asked of the Hub, so that a misspelt folder is an error here and
//! not a request abroad. The cache is the one of Hugging Face's own libraries (`HF_HOME`,
//! `HF_HUB_CACHE`); `HF_HUB_OFFLINE` keeps to it, `HF_ENDPOINT` and `HF_TOKEN` hold as there. Only the
//! files that are read are fetched, all of one commit, and never weights in a pickle.

pub use crate::error::HubError;
use crate::weights::inside;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folder of a model, fetched from the Hub if it is not there.
pub fn resolve(model: &str) -> Result<PathBuf, HubError> {
    Hub::from_env().resolve(model, Kind::Model)
}

/// The folder of an adapter, fetched from the Hub if it is not there.
pub fn resolve_adapter(adapter: &str) -> Result<PathBuf, HubError> {
    Hub::from_env().resolve(adapter, Kind::Adapter)
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Adapter,
}

impl Kind {
    /// The file without which a folder is not of this kind.
    fn marker(self) -> &'static str {
        match self {
            Kind::Model => "config.json",
            Kind::Adapter => "adapter_config.json",
        }
    }

    fn weights(self) -> &'static str {
        match self {
            Kind::Model => "model.safetensors",
            Kind::Adapter => "adapter_model.safetensors",
        }
    }

    /// The files beside the weights, where the repository has them.
    fn small_files(self) -> &'static [&'static str] {
        match self {
            Kind::Model => &[
                "config.json",
                "loriot.json",
                "sentence_bert_config.json",
                "config_sentence_transformers.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
            ],
            Kind::Adapter => &["adapter_config.json", "loriot.json"],
        }
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// Where models come from when they are no folders.
struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    fn from_env() -> Hub {
        let text = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let is_on = |value: String| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        };
        Hub {
            cache: text("HF_HUB_CACHE")
                .map_or_else(|| Cache::from_env().path().clone(), PathBuf::from),
            endpoint: text("HF_ENDPOINT"),
            token: text("HF_TOKEN"),
            offline: text("HF_HUB_OFFLINE").is_some_and(is_on),
        }
    }

    fn resolve(&self, given: &str, kind: Kind) -> Result<PathBuf, HubError> {
        let path = Path::new(given);
        if path.is_dir() {
            return Ok(path.to_owned());
        }
        if path.exists() {
            return Err(HubError::NotFolder { path: given.into(), expected: kind.weights() });
        }
        if looks_like_a_path(given) {
            return Err(HubError::NoFolder { path: given.into() });
        }
        if !is_hub_id(given) {
            return Err(HubError::NotAnId { id: given.into() });
        }
        let cached = Cache::new(self.cache.clone()).model(given.into()).get(kind.marker());
        let cached = cached.and_then(|marker| Some(marker.parent()?.to_owned()));
        if self.offline {
            return cached.ok_or_else(|| HubError::Offline { id: given.into() });
        }
        match (self.fetch(given, kind), cached) {
            // Without a network, what an earlier run fetched is good enough.
            (Err(HubError::Network { .. }), Some(cached)) => Ok(cached),
            (result, _) => result,
        }
    }

    /// Fetches the files of the newest commit that the cache lacks. Returns the commit's folder in the cache.
    fn fetch(&self, id: &str, kind: Kind) -> Result<PathBuf, HubError> {
        let error = |error: ApiError| hub_error(id, error);
        let mut builder = ApiBuilder::from_env().with_cache_dir(self.cache.clone()).with_retries(3);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if self.token.is_some() {
            builder = builder.with_token(self.token.clone());
        }
        let api = builder.build().map_err(error)?;
        let info = api.model(id.into()).info().map_err(error)?;
        if info.sha.is_empty() || !info.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let problem = "its answer names no commit".into();
            return Err(HubError::Network { id: id.into(), problem });
        }
        let cache = Cache::new(self.cache.clone()).model(id.into());
        let snapshot = Snapshot {
            id,
            names: info.siblings.into_iter().map(|file| file.rfilename).collect(),
            dir: cache.pointer_path(&info.sha),
            api: api.repo(Repo::with_revision(id.into(), RepoType::Model, info.sha.clone())),
        };
        snapshot.fetch_all(kind)?;
        let io = |source| hub_error(id, ApiError::IoError(source));
        cache.create_ref(&info.sha).map_err(io)?;
        Ok(snapshot.dir)
    }
}

/// One commit of a repository.
struct Snapshot<'a> {
    id: &'a str,
    /// The files it has.
    names: BTreeSet<String>,
    /// Where the cache keeps them.
    dir: PathBuf,
    api: ApiRepo,
}

impl Snapshot<'_> {
    fn fetch_all(&self, kind: Kind) -> Result<(), HubError> {
        let mut folders = vec![String::new()];
        if kind == Kind::Model && self.fetch("modules.json")? {
            // A module's path, as in `1_Pooling`; its transformer may lie in a folder, too.
            for module in self.json("modules.json").as_array().into_iter().flatten() {
                let path = module["path"].as_str().filter(|path| !path.is_empty());
                folders.extend(path.map(|path| format!("{path}/")));
            }
        }
        for folder in &folders {
            for name in kind.small_files() {
                self.fetch(&format!("{folder}{name}"))?;
            }
            if !self.fetch(&format!("{folder}{}", kind.weights()))? && kind == Kind::Model {
                self.fetch_shards(folder)?;
            }
        }
        // A sentence-transformers repository may keep its transformer in a folder of its own.
        for file in [kind.marker(), kind.weights()] {
            let is_there = |folder: &String| {
                let has = |name: &str| self.names.contains(&format!("{folder}{name}"));
                has(file) || file == kind.weights() && kind == Kind::Model && has(INDEX)
            };
            if !folders.iter().any(is_there) {
                return Err(HubError::NoFile { id: self.id.into(), file });
            }
        }
        Ok(())
    }

    fn fetch_shards(&self, folder: &str) -> Result<(), HubError> {
        let index = format!("{folder}{INDEX}");
        if self.fetch(&index)? {
            let index = self.json(&index);
            let map = index["weight_map"].as_object().into_iter().flatten();
            let shards: BTreeSet<&str> = map.filter_map(|(_, file)| file.as_str()).collect();
            for shard in shards {
                self.fetch(&format!("{folder}{shard}"))?;
            }
        }
        Ok(())
    }

    /// Whether the repository has `name`; if so, it is in the cache now.
    fn fetch(&self, name: &str) -> Result<bool, HubError> {
        let inside = inside(&self.dir, name).filter(|_| self.names.contains(name));
        let Some(path) = inside else { return Ok(false) };
        if !path.exists() {
            let fetched = self.api.download(name).map_err(|error| hub_error(self.id, error))?;
            if fetched != path {
                let problem = format!("`{name}` came from another commit than asked for");
                return Err(HubError::Network { id: self.id.into(), problem });
            }
        }
        Ok(true)
    }

    /// A fetched file as JSON, or `null` if it is not JSON: the error comes later, when the folder is opened.
    fn json(&self, name: &str) -> Value {
        loriot_files::read_json(&self.dir.join(name), 16 << 20).unwrap_or_default()
    }
}

fn hub_error(id: &str, error: ApiError) -> HubError {
    let id = id.to_owned();
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(status) => HubError::Refused { id, status },
            other => HubError::Network { id, problem: other.to_string() },
        },
        ApiError::TooManyRetries(error) => hub_error(&id, *error),
        other => HubError::Network { id, problem: other.to_string() },
    }
}

/// Endings of files that are given for a model by mistake. Names on the Hub may have a dot (`e5-v1.5`), but none
/// of these endings.
const FILE_ENDINGS: [&str; 16] = [
    "arrow",
    "bin",
    "csv",
    "gz",
    "json",
    "jsonl",
    "npy",
    "onnx",
    "parquet",
    "pt",
    "pth",
    "safetensors",
    "toml",
    "tsv",
    "txt",
    "zip",
];

/// `./mine`, `a/b/c`, `mine/` and `mine.toml` are paths; `owner/name` and `name` may be ids.
fn looks_like_a_path(given: &str) -> bool {
    let is_rooted = given.starts_with(['.', '/', '~', '\\']) || Path::new(given).is_absolute();
    let ending = given.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let is_file = ending.is_some_and(|ending| FILE_ENDINGS.contains(&ending.as_str()));
    is_rooted || is_file || given.ends_with('/') || given.matches(['/', '\\']).count() > 1
}

/// Whether the Hub could know `id`: one or two parts of letters, digits, `-`, `_` and `.`.
fn is_hub_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = |part: &str| !part.is_empty() && part.len() <= 96 && part.chars().all(is_plain);
    !id.contains("..") && !id.contains("--") && id.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_files::Hint;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    fn hub(cache: &Path) -> Hub {
        // Nothing listens at port 9 of this machine: a request fails at once.
        let endpoint = Some("http://127.0.0.1:9".into());
        Hub { cache: cache.to_owned(), endpoint, token: None, offline: false }
    }

    fn refusal(hub: &Hub, given: &str) -> String {
        let error = hub.resolve(given, Kind::Model).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn a_folder_is_taken_as_it_is_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().to_str().unwrap();
        assert_eq!(hub(dir.path()).resolve(given, Kind::Model).unwrap(), dir.path());
        let file = dir.path().join("model.safetensors");
        fs::write(&file, "x").unwrap();
        let message = refusal(&hub(dir.path()), file.to_str().unwrap());
        assert!(message.contains("is a file, expected the folder"), "{message}");
    }

    #[test]
    fn a_missing_path_is_an_error_without_asking_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "./runs",
            "../runs",
            "/nowhere/at/all",
            "runs/a/best",
            "~/model",
            "runs/",
            "train.toml",
            "data/products.csv.GZ",
            "mine/model.safetensors",
        ] {
            assert_eq!(refusal(&hub(dir.path()), path), format!("no such folder: `{path}`"));
        }
        for id in ["", "two words", "a/b c", "a--b/c", "naïve"] {
            assert!(
                refusal(&hub(dir.path()), id).contains("neither a folder nor a Hub id"),
                "{id}"
            );
        }
    }

    #[test]
    fn without_a_network_the_remedy_is_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let error = hub(dir.path()).resolve("owner/name", Kind::Model).unwrap_err();
        assert!(matches!(&error, HubError::Network { .. }), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("if it is a folder here, check its path; else download"), "{hint}");
        // A version is no ending of a file.
        let error = hub(dir.path()).resolve("owner/name-v1.5", Kind::Model).unwrap_err();
        assert!(matches!(&error, HubError::Network { .. }), "{error}");
        let offline = Hub { offline: true, ..hub(dir.path()) };
        assert!(refusal(&offline, "owner/name").contains("`HF_HUB_OFFLINE` forbids"));
    }

    #[test]
    fn what_an_earlier_run_fetched_is_found_without_a_network() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--owner--name");
        let snapshot = repo.join("snapshots/0123abcd");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("refs/main"), "0123abcd").unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        for offline in [true, false] {
            let hub = Hub { offline, ..hub(dir.path()) };
            assert_eq!(hub.resolve("owner/name", Kind::Model).unwrap(), snapshot);
            assert!(hub.resolve("owner/name", Kind::Adapter).is_err());
        }
    }

    const COMMIT: &str = "0123abcd";

    /// A Hub on this machine with one repository, `owner/name`, that ends with the test.
    fn serve(files: &'static [(&'static str, &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .by_ref()
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let path = head[0].split(' ').nth(1).unwrap();
                let is_probe = head.iter().any(|line| line.ends_with("bytes=0-0"));
                stream.write_all(answer(files, path, is_probe).as_bytes()).unwrap();
            }
        });
        endpoint
    }

    fn answer(files: &[(&str, &str)], path: &str, is_probe: bool) -> String {
        let (status, etag, body, size) = match path.rsplit_once(&format!("/resolve/{COMMIT}/")) {
            Some(("/owner/name", name)) => {
                let text = files.iter().find(|file| file.0 == name).unwrap().1;
                ("206 Partial Content", name.replace('/', "-"), text.to_owned(), text.len())
            }
            None if path == "/api/models/owner/name/revision/main" => {
                let names = files.iter().map(|file| serde_json::json!({ "rfilename": file.0 }));
                let names: Vec<_> = names.collect();
                let body = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
                ("200 OK", "info".into(), body, 0)
            }
            _ => ("404 Not Found", "none".into(), String::new(), 0),
        };
        let body = if is_probe { &body[..1] } else { &body[..] };
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\netag: \"{etag}\"\r\n\
             x-repo-commit: {COMMIT}\r\ncontent-range: bytes 0-0/{size}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn a_model_is_fetched_with_its_modules_and_shards_and_nothing_else() {
        const FILES: &[(&str, &str)] = &[
            ("config.json", "{}"),
            ("README.md", "unread"),
            ("pytorch_model.bin", "unsafe"),
            ("modules.json", r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "../up"}]"#),
            ("1_Pooling/config.json", "{\"a\": 1}"),
            ("tokenizer.json", "{\"b\": 2}"),
            (INDEX, r#"{"weight_map": {"a": "one.safetensors", "b": "../../two"}}"#),
            ("one.safetensors", "numbers"),
            ("../../two", "outside"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub { endpoint: Some(serve(FILES)), ..hub(dir.path()) };
        let found = hub.resolve("owner/name", Kind::Model).unwrap();
        for at in [0, 3, 4, 5, 6, 7] {
            let (name, text) = FILES[at];
            assert_eq!(fs::read_to_string(found.join(name)).unwrap(), text);
        }
        assert!(!found.join("README.md").exists() && !found.join("pytorch_model.bin").exists());
        assert!(!found.join("../../two").exists());
        let offline = Hub { offline: true, ..hub };
        assert_eq!(offline.resolve("owner/name", Kind::Model).unwrap(), found);
    }

    #[test]
    fn a_repository_without_what_is_needed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = serve(&[("config.json", "{}"), ("pytorch_model.bin", "unsafe")]);
        let hub = Hub { endpoint: Some(endpoint), ..hub(dir.path()) };
        assert_eq!(
            refusal(&hub, "owner/name"),
            "`owner/name` on the Hub has no `model.safetensors`"
        );
        let error = hub.resolve("owner/name", Kind::Adapter).unwrap_err();
        assert!(error.to_string().ends_with("has no `adapter_config.json`"), "{error}");
        let message = refusal(&hub, "owner/other");
        assert!(message.ends_with("the Hub answers 404 for it"), "{message}");
    }
}
