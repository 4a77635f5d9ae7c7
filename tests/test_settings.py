import pytest

from minigpt.errors import UserError
from minigpt.serve.settings import ServeSettings, check_open, is_loopback, keys_in


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_only_this_machine_reaches_a_loopback_address(host):
    assert is_loopback(host)
    check_open(ServeSettings(host=host), insecure=False)


ELSEWHERE = ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "localhost.org", "127.0.0.1.nip.io"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_any_other_address_needs_a_key_or_a_word_that_it_is_meant(host):
    with pytest.raises(UserError, match="give --api-key-file FILE, or --insecure"):
        check_open(ServeSettings(host=host), insecure=False)
    check_open(ServeSettings(host=host), insecure=True)
    check_open(ServeSettings(host=host, keys=("a long enough",)), insecure=False)


def test_keys_are_the_lines_of_their_file():
    assert keys_in("\n  first-key-1\n\nsecond-key\r\n", "keys") == ("first-key-1", "second-key")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_key_is_refused(text):
    with pytest.raises(UserError, match="keys is empty; write a key into it"):
        keys_in(text, "keys")


@pytest.mark.parametrize(
    "key", ["short", "with a space in it", "schlüssel-lang-genug", "bell\x07-bell-bell"]
)
def test_a_key_that_cannot_be_sent_or_is_short_is_refused_by_its_number_alone(key):
    with pytest.raises(UserError, match="key 2 in keys cannot be used") as caught:
        keys_in(f"long-enough-1\n{key}", "keys")
    assert key not in str(caught.value)
