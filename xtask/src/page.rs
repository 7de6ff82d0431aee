//! One page over HTTP, from a server on this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A scrape of a full agent takes a second in a guest; one that takes this long hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// The body of a page. Asked for by HTTP/1.0, which knows no chunks: the body is what comes until the end.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("http://{address}{path}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("http://{address}{path} answered:\n{answer}"),
    }
}
