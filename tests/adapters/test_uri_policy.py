import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.adapters.storage.filesystems import redacted, redacted_text
from grpo_tta.adapters.storage.policy import ForbiddenUri, UriPolicy, source_folder

BUCKET = UriPolicy(["s3"], ["s3://bucket"])


@pytest.fixture
def folder(tmp_path):
    inside, outside = tmp_path / "feed", tmp_path / "secret"
    (inside / "cam").mkdir(parents=True)
    outside.mkdir()
    (outside / "x.jpg").write_bytes(b"s")
    (inside / "cam" / "a b.jpg").write_bytes(b"a")
    (inside / "cam" / "100%25.jpg").write_bytes(b"p")
    (inside / "link.jpg").symlink_to(outside / "x.jpg")
    (inside / "linked").symlink_to(outside)
    (inside / "alias.jpg").symlink_to(inside / "cam" / "a b.jpg")
    return inside


def test_local_uris_become_absolute_paths(folder):
    policy = UriPolicy.for_source(str(folder))
    expected = str(folder / "cam" / "a b.jpg")
    for uri in (
        expected,
        f"{folder}/cam/../cam/./a b.jpg",
        f"//{folder}/cam/a b.jpg",
        f"file://{folder}/cam/a%20b.jpg",
        f"file://localhost{folder}/cam/a%20b.jpg",
        f"FILE://{folder}/cam/a b.jpg",
        f"file:{folder}/cam/%61 b.jpg",
        f"{folder}/alias.jpg",
    ):
        assert policy.check(uri) == expected
    assert policy.check(policy.check(expected)) == expected


def test_a_bare_path_is_not_percent_decoded(folder):
    policy = UriPolicy.for_source(str(folder))
    assert policy.check(f"{folder}/cam/100%25.jpg") == f"{folder}/cam/100%25.jpg"
    assert policy.check(f"file://{folder}/cam/100%2525.jpg") == f"{folder}/cam/100%25.jpg"


@pytest.mark.parametrize(
    "template",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "{folder}/../secret/x.jpg",
        "file://{folder}/%2e%2e/secret/x.jpg",
        "file://{folder}/..%2fsecret%2fx.jpg",
        "{folder}-evil/x.jpg",
        "{folder}/link.jpg",
        "{folder}/linked/x.jpg",
        "file://host{folder}/cam/a b.jpg",
        "file://etc/passwd",
        "file:cam/a.jpg",
        "file:",
        "file://",
        "cam/a b.jpg",
        "./cam/a b.jpg",
        "",
        "  ",
        "{folder}/cam/a\0.jpg",
        "file://{folder}/cam/a%00.jpg",
        "file://{folder}/cam/a%5c.jpg",
        "{folder}/cam\\..\\..\\x.jpg",
        "{folder}/cam/a\n.jpg",
        "C:\\windows\\x.jpg",
        "C:/windows/x.jpg",
        "memory::file://{folder}/cam/a b.jpg",
        "simplecache::s3://bucket/a.jpg",
        "zip://a.jpg::file://{folder}/x.zip",
        "{folder}/a::b.jpg",
        "s3://bucket/a.jpg",
        "http://localhost{folder}/cam/a.jpg",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "memory://{folder}/cam/a b.jpg",
    ],
)
def test_what_a_local_source_must_not_read(folder, template):
    policy = UriPolicy.for_source(str(folder))
    with pytest.raises(ForbiddenUri):
        policy.check(template.replace("{folder}", str(folder)))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("S3://bucket/a b ü.jpg", "s3://bucket/a b ü.jpg"),
        ("s3a://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/x/../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/../../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/a//b.jpg", "s3://bucket/a//b.jpg"),
        ("s3://bucket/100%25.jpg", "s3://bucket/100%25.jpg"),
        ("s3://bucket/50%.jpg", "s3://bucket/50%.jpg"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_bucket_uris_are_normalised(uri, expected):
    assert BUCKET.check(uri) == expected
    assert BUCKET.check(expected) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket-evil/a.jpg",
        "s3://bucket.evil/a.jpg",
        "s3://Bucket/a.jpg",
        "s3://evil/bucket/a.jpg",
        "s3://key:secret@bucket/a.jpg",
        "s3://key@bucket/a.jpg",
        "s3:///bucket/a.jpg",
        "s3://",
        "s3:bucket/a.jpg",
        "s3:/bucket/a.jpg",
        "gs://bucket/a.jpg",
        "s3://bucket/..%2f..%2fother/a.jpg",
        "s3://bucket/%2e%2e/other",
        "s3://bucket/%252e%252e/other",
        "s3://bucket/a%00.jpg",
        "s3://bucket/a%5c..%5cb.jpg",
        "s3://bucket/%25252525252e%25252525252e/x",
        "s3://bück%65t/a.jpg",
        "s3://bucket\\@evil/a.jpg",
        "https://bucket/a.jpg",
    ],
)
def test_what_a_bucket_source_must_not_read(uri):
    with pytest.raises(ForbiddenUri):
        BUCKET.check(uri)


def test_a_prefix_is_compared_by_segments():
    policy = UriPolicy(["gs", "s3"], ["gs://bucket/images/", "s3://bucket/one.jpg"])
    assert policy.check("gs://bucket/images/a.jpg") == "gs://bucket/images/a.jpg"
    assert policy.check("s3://bucket/one.jpg") == "s3://bucket/one.jpg"
    for uri in (
        "gs://bucket/images-evil/a.jpg",
        "gs://bucket/a.jpg",
        "s3://bucket/one.jpg2",
        "gs://bucket/images/../x",
    ):
        with pytest.raises(ForbiddenUri):
            policy.check(uri)


def test_a_scheme_alone_allows_all_of_it():
    assert UriPolicy(["s3"], ["s3://"]).check("s3://any/a.jpg") == "s3://any/a.jpg"
    assert UriPolicy(["memory"], ["memory://"]).check("memory:///a/b.jpg") == "memory://a/b.jpg"
    assert UriPolicy(["file"], ["/"]).check("/etc/../etc/hostname") == os.path.realpath("/etc/hostname")


def test_web_addresses_only_where_allowed():
    policy = UriPolicy(["https"], ["https://Example.org:443/images"])
    assert policy.check("https://EXAMPLE.org/images/a%20b.jpg?v=1#top") == "https://example.org/images/a%20b.jpg?v=1"
    assert policy.check("https://example.org./images/a.jpg") == "https://example.org/images/a.jpg"
    for uri in (
        "http://example.org/images/a.jpg",
        "https://example.org:8443/images/a.jpg",
        "https://example.org.evil/images/a.jpg",
        "https://example.org@evil/images/a.jpg",
        "https://evil/https://example.org/images/a.jpg",
        "https://example.org/images/..%2fprivate",
        "https://example.org/images/%2e%2e/private",
        "https://example.org/images/..;/private",
        "https://example.org/images/..;a=b/private",
        "https://example.org/images/%2e%2e;/private",
        "https://example.org/images/%2e%2e%3b/private",
        "https://example.org/images/..%3f/private",
        "https://example.org/images/..%23/private",
        "https://example.org/images/%2e%2e%253Fa=b/private",
        "https://example.org/images/.. /private",
        "https://example.org/images/%252e%252e%252fprivate",
        "https://example.org/images/%c0%ae%c0%ae/private",
        "https://example.org/images/%c0%2e%c0%2e/private",
        "https://example.org/images/%e0%80%ae%e0%80%ae/private",
        "https://example.org/images/%25c0%25ae%25c0%25ae/private",
        "https://example.org/images/%u002e%u002e/private",
        "https://example.org/images/%f0%80%80%ae%f0%80%80%ae/private",
        "https://example.org/images/%f8%80%80%80%ae%f8%80%80%80%ae/private",
        "https://example.org/images/%fc%80%80%80%80%ae/private",
        "https://example.org/images/..%e2%88%95private",
        "https://example.org/images/..\u29f5private",
        "https://example.org/images/\uff0e\uff0e/private",
        "https://example.org/images/%ef%bc%8e%ef%bc%8e/private",
        "https://example.org/images/\u2025/private",
        "https://example.org/images/..\uff0fprivate",
        "https://example.org/images/..\uff3cprivate",
        "https://example.org/images/..%5cprivate",
        "https://example.org/images/\x85/private",
        "https://example.org/other?/images/a.jpg",
        "https://example.org/other#/images/a.jpg",
    ):
        with pytest.raises(ForbiddenUri):
            policy.check(uri)


def test_a_host_may_be_an_address_of_six_and_nothing_else_is_two_colons():
    policy = UriPolicy(["http"], ["http://[2001:db8::1]:8000/images"])
    good = "http://[2001:db8::1]:8000/images/a.jpg"
    assert policy.check(good) == good
    for uri in (good.replace("a.jpg", "a::b"), good.replace("8::1", "8::2"), "x::" + good, good.replace(":8000", "@x")):
        with pytest.raises(ForbiddenUri):
            policy.check(uri)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.0.0.1", "127.0.0.01", "0"])
def test_an_address_is_written_in_four_decimal_numbers(host):
    with pytest.raises(ForbiddenUri, match="four decimal numbers"):
        UriPolicy(["http"], ["http://"]).check(f"http://{host}:80/a.jpg")


HIDDEN_ADDRESSES = (
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "ff02::1", "fec0::1", "::127.0.0.1", "::ffff:0:127.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("address", HIDDEN_ADDRESSES)
def test_addresses_of_private_networks_are_not_connected_to(address):
    plain = UriPolicy(["https"], ["https://example.org/images"])
    assert not plain.may_connect("example.org", address)
    assert not UriPolicy(["http"], ["http://"]).may_connect(address, address)
    bare = address.partition("%")[0]
    other = UriPolicy(["https"], ["https://example.org", f"network:{bare}"])
    assert other.may_connect("example.org", address)
    assert other.prefixes == ("https://example.org",)
    if ":" not in address:
        named = UriPolicy(["http"], [f"http://{address}:8080", "http://example.org"])
        assert named.may_connect(address, address)
        assert not named.may_connect("example.org", address)


def test_other_addresses_are():
    policy = UriPolicy(["https"], ["https://example.org"])
    for address in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"):
        assert policy.may_connect("example.org", address)
    local = UriPolicy(["http"], ["http://localhost:8080"])
    assert local.may_connect("localhost", "127.0.0.1")
    assert local.may_connect("localhost", "::1")
    assert not local.may_connect("localhost", "10.0.0.1")
    with pytest.raises(ValueError, match=r"'network:10\.0\.0' is no network"):
        UriPolicy(["http"], ["network:10.0.0"])


def test_an_azure_container_is_not_a_user():
    policy = UriPolicy(["az"], ["abfs://box@Account.dfs.core/images"])
    assert policy.check("abfss://box@account.DFS.core/images/a.jpg") == "abfs://box@account.dfs.core/images/a.jpg"
    for uri in ("abfs://box:key@account.dfs.core/images/a.jpg", "abfs://other@account.dfs.core/images/a.jpg"):
        with pytest.raises(ForbiddenUri):
            policy.check(uri)


def test_more_prefixes_by_configuration(folder):
    policy = UriPolicy.for_source(str(folder), ["s3://bucket/x", str(folder.parent / "secret")])
    assert policy.check(f"{folder}/link.jpg") == str(folder.parent / "secret" / "x.jpg")
    assert policy.check("s3://bucket/x/a.jpg") == "s3://bucket/x/a.jpg"


def test_errors_name_the_value_and_the_way_out():
    with pytest.raises(
        ForbiddenUri, match=r"'s3://other/a.jpg' is under no allowed prefix; .*'s3://bucket'.*allow_uris"
    ):
        BUCKET.check("s3://other/a.jpg")
    with pytest.raises(ForbiddenUri, match="5000 characters, the limit is 4096"):
        BUCKET.check("s" * 5000)
    with pytest.raises(ValueError, match=r"'gs://b' is of scheme 'gs', allowed are \('s3',\)"):
        UriPolicy(["s3"], ["gs://b"])
    with pytest.raises(ValueError, match="allowed prefix 'relative'"):
        UriPolicy(["file"], ["relative"])


@given(st.text(max_size=60))
def test_nothing_made_of_odd_characters_leaves_the_bucket(text):
    for uri in (text, f"s3://bucket{text}", f"s3://bucket/{text}", f"s3://{text}bucket/a"):
        try:
            checked = BUCKET.check(uri)
        except ForbiddenUri:
            continue
        assert checked == "s3://bucket" or checked.startswith("s3://bucket/")
        assert ".." not in checked.split("/")
        assert BUCKET.check(checked) == checked


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("/data/feed", "/data/feed"),
        ("/data/feed/", "/data/feed"),
        ("/data/feed/*/a.jpg", "/data/feed"),
        ("/data/fe*d/a.jpg", "/data"),
        ("/*.jpg", "/"),
        ("/data/feed.jsonl", "/data"),
        ("/data/photo.jpg", "/data/photo.jpg"),
        ("file:///data/my%20feed", "/data/my feed"),
        ("s3://bucket/images/", "s3://bucket/images"),
        ("s3://bucket/**/*.jpg", "s3://bucket"),
        ("s3://bucket/m.JSONL", "s3://bucket"),
        ("memory://x/[ab]/c.png", "memory://x"),
    ],
)
def test_the_folder_of_a_source(source, folder):
    assert source_folder(source) == folder


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:HUNTER2@host/a.jpg", "https://(hidden)@host/a.jpg"),
        ("https://HUNTER2@host/a@b.jpg", "https://(hidden)@host/a@b.jpg"),
        ("https:\\\\user:HUNTER2@host/a.jpg", "https:\\\\(hidden)@host/a.jpg"),
        ("https:user:HUNTER2@host", "https:(hidden)@host"),
        ("https://host/a.jpg?X-Amz-Date=1&X-Amz-Signature=HUNTER2", None),
        ("https://host/a.jpg?HUNTER2", "https://host/a.jpg?(hidden)"),
        ("https://host/a.jpg?sig=HUNTER2::x:HUNTER2", "https://host/a.jpg?sig=(hidden)"),
        ("zip://a.jpg::https://u:HUNTER2@host/b.zip", "zip://a.jpg::https://(hidden)@host/b.zip"),
        ("abfs://box:HUNTER2@account/a.jpg", "abfs://(hidden)@account/a.jpg"),
        ("abfs://box@account/a.jpg", "abfs://box@account/a.jpg"),
        ("https://host/a.jpg#access_token=HUNTER2", "https://host/a.jpg#access_token=(hidden)"),
        ("https://host/a.jpg#HUNTER2", "https://host/a.jpg#(hidden)"),
        ("https://host/a;sig=HUNTER2/b;c", "https://host/a;sig=(hidden)/b;c"),
        ("https://host/a%3Fsig=HUNTER2", "https://host/a%3Fsig=(hidden)"),
        ("https://host/a?b;sig=HUNTER2", "https://host/a?(hidden)"),
        ("https://host/a?x=1&s=HUNTER2#t=HUNTER2", "https://host/a?x=(hidden)&s=(hidden)#t=(hidden)"),
        ("https://u:HUN/HUNTER2@host/a", "https://(hidden)@host/a"),
        ("https://u:HUN?HUNTER2@host/a", "https://(hidden)@host/a"),
        ("https://u:HUN#HUNTER2@host/a", "https://(hidden)@host/a"),
        ("https://u:HUNTER2%40host/a", "https://u:(hidden)/a"),
        ("//u:HUNTER2@host/a", "//(hidden)@host/a"),
        ("/x/https://u:HUNTER2@host/a", "/x/https://(hidden)@host/a"),
        ("https://host:8080/a@b.jpg", "https://host:8080/a@b.jpg"),
        ("https://host/a.tar?sig=HUNTER2#bytes=0-10", "https://host/a.tar?sig=(hidden)#bytes=0-10"),
        ("s3://bucket/cam#3/a.jpg", "s3://bucket/cam#3/a.jpg"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        ("/data/a?b=c@d.jpg", "/data/a?b=c@d.jpg"),
        ("/data/m.jsonl#bytes=0-10", "/data/m.jsonl#bytes=0-10"),
    ],
)
def test_what_of_a_uri_may_be_written_down(uri, shown):
    shown = shown or "https://host/a.jpg?X-Amz-Date=(hidden)&X-Amz-Signature=(hidden)"
    assert redacted(uri) == shown
    assert redacted(shown) == shown
    with pytest.raises(ForbiddenUri) as raised:
        BUCKET.check(uri) if "bucket" not in uri else BUCKET.check("gs://x")
    assert "HUNTER2" not in str(raised.value)


def test_urls_within_a_text_are_redacted():
    text = 'read {"uri": "https://u:HUNTER2@host/a?k=HUNTER2"} and https:\\/\\/u:HUNTER2@host/b, 12:30 @ noon'
    assert "HUNTER2" not in redacted_text(text)
    assert redacted_text(text).endswith("@host/b, 12:30 @ noon")
    assert redacted_text("a" * 1_000_000) == "a" * 1_000_000


def test_a_prefix_with_a_password_is_refused_without_it():
    with pytest.raises(ValueError, match="carries credentials") as raised:
        UriPolicy(["https"], ["https://u:HUNTER2@host"])
    assert "HUNTER2" not in str(raised.value)
