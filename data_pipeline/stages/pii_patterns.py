"""What personal data and secrets look like, as data: one entry for each way of writing one.

Addresses and accounts are here; `pii_phones`, `pii_national` and `pii_secrets` hold the rest.
"""

from __future__ import annotations

from . import pii_scan, pii_validators
from .pii_national import NATIONAL_IDS
from .pii_phones import PHONES
from .pii_secrets import SECRETS
from .pii_shapes import AFTER, BEFORE, Pattern, latin, names, number, utf8

_LABEL = "(?:[A-Za-z0-9]|LATIN)(?:[A-Za-z0-9-]|LATIN){0,62}"
_NAMES_OF_FILES = (
    "png|jpe?g|gif|webp|svg|ico|js|css|json|html?|xml|py|tgz|gz|deb|rpm|txt|conf|service|socket"
    "|timer|target|mount|slice|scope|device|path|local|lan|internal|localdomain"
)
_DOT = r"(?:\.| ?[\[({<] ?dot ?[\])}>] ?| dot )"
# what a number in four parts is when it is no address
_VERSIONS = names(
    """
    version, versions, release, ver!, ver., v!, v., build, firmware, driver, update, upgrade,
    kernel, section, sections, chapter, clause, article, rule, figure, table, §, oid!, abschnitt,
    kapitel, treiber, sección, versión, versione, versão, wersja, версия, версии, раздел, пункт,
    版本, 版, バージョン, 버전
    """,
    r"[^\w\n]{0,3}$",
)
_HOSTS = names(
    """
    ip!, ips!, ipv4, addr, address, host, server, client, peer, from, src, dst, source, remote,
    ping, forwarded-for, gateway, traceroute, user, login, access, depuis, desde, von!, адрес,
    عنوان, 地址, アドレス, サーバ, 服务器, 주소, [, (, @, //, ://
    """,
)
# accounts are written in groups set off by spaces (also such that do not break), hyphens or dots
_GAP = "(?:[ .-]|\xa0)?"

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        kind="email",
        anchor=pii_scan.AT,
        expression=latin(
            r"(?<!//)(?:[A-Za-z0-9._%+'-]|LATIN)+(?:@|%40)(?:" + _LABEL + r"\.){1,8}"
            rf"(?!(?:{_NAMES_OF_FILES})(?![\w-]))(?:[A-Za-z]{{2,24}}|xn--[a-z0-9-]{{2,59}})"
            # not host:path of scp, no file below, not an attribute or a call
            r"(?![\w(@\[-]|\.[A-Za-z0-9_]|:[~/\w])"
        ),
        valid=lambda text: ".." not in text,
    ),
    # written for people: name [at] host [dot] org, name(at)host.org, name at host dot org
    Pattern(
        kind="email",
        anchor=pii_scan.SPELT_AT,
        expression=utf8(
            r"(?i:(?<![\w.+-])[\w][\w.+-]{0,63}(?: ?[\[({<] ?at ?[\])}>] ?(?:[a-z0-9-]{1,63}"
            + _DOT
            + r"){1,6}| at (?:[a-z0-9-]{1,63} dot ){1,6})[a-z]{2,12}(?!\w|\())"
        ),
        search=True,
    ),
    Pattern(
        kind="url_credentials",
        anchor=pii_scan.SCHEME,
        expression=utf8(
            r"[A-Za-z][A-Za-z0-9+.-]*://"
            r"(?P<only>[^\s:/@\"'<>{}\[\]$`|]{0,128}:[^\s/@\"'<>{}\[\]`|]{1,128})"
            r"@(?:[A-Za-z0-9]|\[[0-9a-fA-F:])[A-Za-z0-9.:\]-]*"
        ),
    ),
    *SECRETS,
    # an address of which no part has three digits looks like a version, and needs a word for it
    *(
        Pattern(
            kind="ip_address",
            anchor=pii_scan.DOTTED,
            expression=utf8(
                rf"(?<![\w+.-])(?<!\w/)(?<![<>~!=]=)(?<![<>~!=]= ){parts}"
                r"(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\w|-\d|[-+.]\w+\.\w)"
            ),
            valid=pii_validators.public_ip,
            context=context,
            unless=_VERSIONS,
            search=True,
        )
        for parts, context in ((r"(?=[\d.]*\d{3})", None), ("", _HOSTS))
    ),
    Pattern(
        kind="ip_address",
        anchor=pii_scan.HEX_COLON,
        expression=utf8(
            r"(?:(?<![\w.:-])|(?<=[^0-9A-Fa-f:]:)|(?<=ip6:))"
            r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){1,6}:[0-9A-Fa-f]{1,4}(?![\w:])"
        ),
        valid=pii_validators.public_ip,
    ),
    number(
        "credit_card",
        rf"{BEFORE}(?:\d{{4}}({_GAP})\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?"
        rf"|3\d{{3}}({_GAP})\d{{6}}\2\d{{4,5}}|62\d{{14,17}}|62\d{{4}}{_GAP}\d{{13}}){AFTER}",
        pii_validators.credit_card,
        14,
    ),
    Pattern(
        kind="iban",
        anchor=pii_scan.CAPITALS,
        expression=utf8(
            "|".join(
                rf"{country}\d\d(?:{_GAP}[A-Z0-9]){{{length - 4}}}(?![A-Za-z0-9])"
                for country, length in pii_validators.IBAN_LENGTHS.items()
            )
        ),
        valid=pii_validators.iban,
    ),
    *NATIONAL_IDS,
    *PHONES,
)

KINDS: tuple[str, ...] = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))
