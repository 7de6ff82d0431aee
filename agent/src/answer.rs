//! What a command has to say, written to stdout on a thread of its own: a reader that stalls does not keep Ctrl-C from ending it.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use crate::failure::Failure;
use crate::sink::stream;

/// How long a reader may take once the command is interrupted.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes an answer that no Ctrl-C need end cleanly (help, a completion script, the doctor's report) to stdout, whole. A reader
/// that closes its end has seen enough.
///
/// # Errors
/// Stdout's.
pub fn at_once(text: &[u8]) -> Result<(), Failure> {
    match stream::write_stdout(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(of_stdout(&error)),
        _ => Ok(()),
    }
}

fn of_stdout(error: &std::io::Error) -> Failure {
    Failure::runtime(format!("stdout: {error}"))
}

/// Writes `text` whole, or as much as the reader takes until a second after `interrupted`. A reader that closes its end
/// (`| head`) has seen enough.
///
/// # Errors
/// Stdout's, or that the reader has not seen all.
pub async fn write(text: impl Into<Vec<u8>>, interrupted: impl Future<Output = ()>) -> Result<(), Failure> {
    let text = text.into();
    let written = tokio::task::spawn_blocking(move || stream::write_stdout(&text));
    let stalled = async {
        interrupted.await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        written = written => match written? {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(of_stdout(&error)),
            Ok(()) => Ok(()),
        },
        () = stalled => {
            Err(Failure::runtime("interrupted: the reader of stdout stalls, and has not seen all"))
        }
    }
}
