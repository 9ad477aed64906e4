//! Where connections come from: TCP and Unix sockets.

use super::places::Origin;
use crate::config::Address;
use crate::engine::GroupId;
use crate::plane::Peer;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// Connections that wait to be accepted, a listener.
const BACKLOG: u32 = 1024;

/// The sockets a server listens on, bound and waiting.
#[derive(Debug)]
pub struct Listeners(pub(super) Vec<Listener>);

impl Listeners {
    /// Binds every address, or none. Unix sockets get the permissions `unix_mode`.
    pub fn bind(addresses: &[Address], unix_mode: u32) -> Result<Self, ListenError> {
        let bind = |address: &Address| {
            Listener::bind(address, unix_mode).map_err(|error| ListenError {
                address: address.clone(),
                reason: error.to_string(),
            })
        };
        addresses.iter().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// The addresses, with the ports that were taken where 0 was asked for.
    pub fn addresses(&self) -> Vec<Address> {
        self.0.iter().map(|listener| listener.address.clone()).collect()
    }
}

/// An address that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct ListenError {
    /// The address.
    pub address: Address,
    /// What the system said.
    pub reason: String,
}

/// One bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Listener {
    fn bind(address: &Address, unix_mode: u32) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = bind_tcp(*address)?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok(Self { address, socket: Socket::Tcp(listener) })
            }
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path, unix_mode)?;
                let socket = Socket::Unix { listener, _file: file };
                Ok(Self { address: address.clone(), socket })
            }
        }
    }

    /// The socket where memory is handed over, and its file.
    pub fn bind_control(
        path: &Path,
        unix_mode: u32,
    ) -> Result<(UnixListener, SocketFile), ListenError> {
        bind_unix(path, unix_mode).map_err(|error| ListenError {
            address: Address::Unix(path.into()),
            reason: error.to_string(),
        })
    }

    /// The next connection, and where it comes from.
    pub async fn accept(&self) -> io::Result<(Connection, Origin)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Answers are small and each is wanted now.
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream), Origin::Tcp(from.ip())))
            }
            Socket::Unix { listener, .. } => {
                Ok((Connection::Unix(listener.accept().await?.0), Origin::Unix))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whom `mode` lets in may connect. A file that a dead server left behind is replaced; one that somebody
/// listens on, or that is not a socket, is not touched.
fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let text = "there is a file of that name that is not a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody else listens there"));
        }
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    // Nobody can connect between bind and chmod: the socket is bound where only this user may look,
    // and moved to its place when it is ready.
    let directory = PrivateDirectory::beside(path)?;
    let hidden = directory.0.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    fs::rename(&hidden, path)?;
    Ok((UnixListener::from_std(listener)?, SocketFile::new(path)?))
}

/// Removed when dropped.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn beside(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&name)?;
        Ok(Self(name.into()))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A socket's file, removed when dropped unless it is no longer ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), inode: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::symlink_metadata(path)?.ino())
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Who is at the other end, where the kernel says so.
    pub fn peer(&self) -> Option<Peer> {
        let Self::Unix(stream) = self else { return None };
        let credentials = stream.peer_cred().ok()?;
        Some(Peer { uid: credentials.uid(), pid: credentials.pid()? })
    }
}

impl Connection {
    /// Where it comes from: an address, or a process of this host.
    pub fn group(&self) -> GroupId {
        match self {
            Self::Tcp(stream) => GroupId::of(stream.peer_addr().ok().map(|address| address.ip())),
            Self::Unix(_) => GroupId::of(self.peer().map(|peer| peer.pid)),
        }
    }
}

macro_rules! forward {
    ($self:ident, $method:ident($($arg:expr),*)) => {
        match $self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).$method($($arg),*),
            Connection::Unix(stream) => Pin::new(stream).$method($($arg),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(directory: &tempfile::TempDir) -> (Address, PathBuf) {
        let path = directory.path().join("logitd.sock");
        (Address::Unix(path.clone()), path)
    }

    #[tokio::test]
    async fn a_unix_socket_is_private_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let (address, path) = address(&directory);
        let listeners = Listeners::bind(std::slice::from_ref(&address), 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Listeners::bind(std::slice::from_ref(&address), 0o600).unwrap_err();
        assert!(again.reason.contains("somebody else listens"), "{again}");
        drop(listeners);
        let open = Listeners::bind(std::slice::from_ref(&address), 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(open);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_dead_servers_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (address, path) = address(&directory);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listeners::bind(std::slice::from_ref(&address), 0o600).unwrap());

        fs::write(&path, "precious").unwrap();
        assert!(Listeners::bind(&[address], 0o600).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
