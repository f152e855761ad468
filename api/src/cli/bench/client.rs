//! An HTTP/1.1 client that costs as little as it can: one connection, one buffer, one request at a time.
//!
//! It speaks only as much HTTP as our own server does: every answer has a content length.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::target::Target;

/// Headers of an answer; ours have fewer than ten.
const MAX_HEADERS: usize = 32;

/// The largest answer, in bytes. Those that are measured have less than two thousand.
const MAX_ANSWER: usize = 1 << 20;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Everything of a request's head but the length of its body.
    head: String,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Where the body begins in `answer`, which ends with it.
    body_start: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.addr).await.context("cannot connect")?;
        stream.set_nodelay(true).context("cannot set up the connection")?;
        let key = target.api_key.as_ref().map(|key| format!("x-api-key: {key}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\n{key}content-type: application/json\r\ncontent-length: ",
            target.path, target.addr
        );
        Ok(Self { stream, head, request: Vec::new(), answer: Vec::new(), body_start: 0 })
    }

    /// Sends a body and waits for the answer.
    ///
    /// # Errors
    /// The connection broke, the answer is not HTTP, or its status is not 200. The connection is of no further use
    /// then.
    pub(super) async fn post(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.request.clear();
        self.request.extend_from_slice(self.head.as_bytes());
        self.request.extend_from_slice(body.len().to_string().as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await.context("cannot send a request")?;

        self.answer.clear();
        let (status, body_start, length) = loop {
            if let Some(head) = read_head(&self.answer)? {
                break head;
            }
            self.read_more().await?;
        };
        while self.answer.len() < body_start + length {
            self.read_more().await?;
        }
        self.body_start = body_start;
        if status != 200 {
            bail!("status {status}: {}", String::from_utf8_lossy(self.body()));
        }
        Ok(())
    }

    /// The body of the last answer.
    pub(super) fn body(&self) -> &[u8] {
        &self.answer[self.body_start..]
    }

    /// Whether the last answer's body contains these bytes.
    pub(super) fn answer_contains(&self, needle: &[u8]) -> bool {
        find(self.body(), needle).is_some()
    }

    /// The text that follows `prefix` in the last answer's body, up to the next quotation mark.
    pub(super) fn text_after(&self, prefix: &[u8]) -> Option<&str> {
        let body = self.body();
        let rest = &body[find(body, prefix)? + prefix.len()..];
        let end = rest.iter().position(|&byte| byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        ensure!(self.answer.len() < MAX_ANSWER, "the answer is longer than {MAX_ANSWER} bytes");
        let read = self.stream.read_buf(&mut self.answer).await.context("cannot read an answer")?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }
}

/// Returns the status, where the body begins, and its length; `None` while the head is not complete.
fn read_head(answer: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    if answer.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body_start) = response.parse(answer).context("the answer is not HTTP")?
    else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    let length = length.context("the answer has no content length")?;
    Ok(Some((status, body_start, length)))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        let end = answer.len() - 2;
        assert_eq!(read_head(&answer[..end - 1]).expect("so far HTTP"), None);
        assert_eq!(read_head(answer).expect("HTTP"), Some((200, end, 2)));
        assert!(read_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(read_head(b"SMTP ready\r\n").is_err());
    }

    #[test]
    fn needles_are_found() {
        assert_eq!(find(b"abcabd", b"abd"), Some(3));
        assert_eq!(find(b"ab", b"abd"), None);
    }
}
