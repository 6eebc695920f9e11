"""The password of a page that other machines can reach, and the sessions of those who know it."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from misc.search.web.refusals import RefusedError
from options import UserError

MIN_PASSWORD = 8  # characters
SESSION = 12 * 3600  # seconds
WINDOW = 60.0  # seconds, in which so many attempts are allowed:
MAX_ATTEMPTS, MAX_ATTEMPTS_OF_ALL = 5, 50  # of one address, and of all


class Access:
    """Checks passwords and sessions. A session is a signed cookie; it ends with the server, too.

    Args:
        clock: seconds since any time.

    Raises:
        UserError: the password is too short.
    """

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        if len(password) < MIN_PASSWORD:
            raise UserError(f"The password has {len(password)} characters: expected at least {MIN_PASSWORD}")
        self._clock, self._hashing, self._counting = clock, threading.Lock(), threading.Lock()
        self._salt, self._key = secrets.token_bytes(16), secrets.token_bytes(32)
        self._hash = self._scrypt(password)
        self._attempts: deque[tuple[float, str]] = deque()
        self._ended: dict[str, float] = {}
        self.cookie = f"search-{secrets.token_hex(4)}"  # cookies of other ports of this host have other names

    def log_in(self, password: str, address: str) -> str:
        """A new session; raises RefusedError if the password is wrong, or after too many attempts."""
        self._count_attempt(address)
        with self._hashing:  # scrypt takes 16 MB each time
            is_right = hmac.compare_digest(self._scrypt(password), self._hash)
        if not is_right:
            raise RefusedError(401, "This is not the password")
        with self._counting:
            self._attempts = deque(attempt for attempt in self._attempts if attempt[1] != address)
        content = f"{self._clock() + SESSION:.0f}.{secrets.token_hex(16)}"
        return f"{content}.{self._signature(content)}"

    def is_valid(self, session: str) -> bool:
        """Whether this is a session that has not ended."""
        content, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            return False
        return float(content.partition(".")[0]) > self._clock() and content not in self._ended

    def log_out(self, session: str) -> None:
        """End a session."""
        if self.is_valid(session):
            content, now = session.rpartition(".")[0], self._clock()
            self._ended = {ended: until for ended, until in self._ended.items() if until > now}
            self._ended[content] = float(content.partition(".")[0])

    def _count_attempt(self, address: str) -> None:
        """Count it before the password is checked: attempts at the same time are attempts."""
        with self._counting:
            now = self._clock()
            while self._attempts and self._attempts[0][0] <= now - WINDOW:
                self._attempts.popleft()
            of_all = [when for when, _ in self._attempts]
            of_address = [when for when, who in self._attempts if who == address]
            for times, limit in ((of_address, MAX_ATTEMPTS), (of_all, MAX_ATTEMPTS_OF_ALL)):
                if len(times) >= limit:
                    wait = int(times[-limit] + WINDOW - now) + 1
                    raise RefusedError(429, f"Too many attempts: wait {wait} seconds", retry_after=wait)
            self._attempts.append((now, address))

    def _scrypt(self, password: str) -> bytes:
        return hashlib.scrypt(password.encode(errors="replace"), salt=self._salt, n=2**14, r=8, p=1)

    def _signature(self, content: str) -> str:
        return hmac.new(self._key, content.encode(errors="replace"), "sha256").hexdigest()
