"""Keys and tokens that open somebody's account: each issuer's own prefix, alphabet and length.

Sources are the issuers' pages on their formats; a secret whose format says nothing (AWS's secret
access key, a storage account's key) is taken by the name before it.
"""

from __future__ import annotations

import base64
import re

from . import pii_scan, pii_validators
from .pii_shapes import Pattern, Valid, utf8


def _secret(expression: str, valid: Valid | None = None, back: int = 0, flags: int = 0) -> Pattern:
    return Pattern(
        kind="secret_key",
        anchor=pii_scan.PREFIX,
        expression=utf8(expression, flags),
        valid=valid,
        back=back,
    )


# prefix and the rest of it; the scan looks for the first bytes
_TOKENS = (
    r"(?:AKIA|ASIA)[A-Z2-7]{16}(?!\w)",
    r"gh[pousr]_[A-Za-z0-9]{36,255}(?!\w)",
    r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?!\w)",
    r"xox[abcdeoprs]-(?=[0-9A-Za-z-]*\d)[0-9A-Za-z-]{10,250}[0-9A-Za-z](?!\w)",
    r"xapp-\d-[A-Z0-9]{8,16}-\d{8,16}-[0-9a-f]{32,64}(?!\w)",
    r"AIza[0-9A-Za-z_-]{35}(?![\w-])",
    r"GOCSPX-[\w-]{28}(?![\w-])",
    r"ya29\.[\w-]{40,1000}",
    r"[rs]k_live_[0-9A-Za-z]{16,247}(?!\w)",
    r"whsec_[A-Za-z0-9]{32,64}(?!\w)",
    r"sk-(?:proj|svcacct|admin|ant-[a-z]+\d\d|or-v\d)-[\w-]{32,250}(?![\w-])",
    r"sk-(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{32,64}(?![\w-])",
    r"hf_(?=[A-Za-z]*\d)[A-Za-z0-9]{30,40}(?!\w)",
    r"gl(?:pat|dt|rt|soat|ptt|cbt)-[\w-]{20,64}(?![\w-])",
    r"npm_[A-Za-z0-9]{36}(?!\w)",
    r"pypi-AgE[\w-]{50,1000}(?![\w-])",
    r"SG\.[\w-]{16,32}\.[\w-]{32,64}(?![\w-])",
    r"do[opr]_v1_[0-9a-f]{64}(?!\w)",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}(?!\w)",
    r"dapi[0-9a-f]{32}(?:-\d)?(?!\w)",
    r"dckr_pat_[\w-]{27}(?![\w-])",
    r"hvs\.[\w-]{24,200}(?![\w-])",
)
# secrets without a format, after their names
_NAMED = (
    r"hooks\.slack\.com/services/(?P<only>T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,28})",
    (
        r"(?i:(?:aws_?)?secret_?(?:access_?)?key)[\"']?\s{0,3}(?:[:=]|=>)\s{0,3}[\"']?"
        r"(?P<only>[A-Za-z0-9/+]{40})(?![\w/+=])"
    ),
    r"AccountKey=(?P<only>[A-Za-z0-9/+]{86}==)",
)

SECRETS: tuple[Pattern, ...] = (
    _secret("|".join(_TOKENS)),
    *(_secret(expression) for expression in _NAMED),
    _secret(
        r"eyJ[\w-]{10,4000}\.eyJ[\w-]{2,8000}\.[\w-]{16,2000}(?![\w-])",
        pii_validators.json_web_token,
    ),
    _secret(
        r"-----BEGIN (?P<label>[A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?)-----"
        r".{64,20000}?-----END (?P=label)-----",
        pii_validators.private_key,
        back=5,
        flags=re.DOTALL,
    ),
    # a bot of Telegram: its number, a colon, 35 characters
    Pattern(
        kind="secret_key",
        anchor=pii_scan.NUMBER,
        expression=utf8(r"(?<!\w)\d{8,10}:AA[\w-]{33}(?![\w-])"),
        digits=8,
    ),
)

# the first bytes of secrets, eight at most, `?` for any; of a private key, those after its hyphens
SECRET_PREFIXES: tuple[bytes, ...] = (
    *(b"AKIA", b"ASIA", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_p", b"hooks.sl"),
    *(b"xox?-", b"xapp-", b"AIza", b"GOCSPX-", b"ya29.", b"sk_live_", b"rk_live_", b"whsec_"),
    *(b"sk-", b"hf_", b"glpat-", b"gldt-", b"glrt-", b"glsoat-", b"glptt-", b"glcbt-", b"npm_"),
    *(b"pypi-AgE", b"SG.", b"doo_v1_", b"dop_v1_", b"dor_v1_", b"dapi", b"dckr_pat", b"hvs."),
    *(b"shpat_", b"shpca_", b"shppa_", b"shpss_", b"AccountK", b"BEGIN"),
    *(b"aws_secr", b"AWS_SECR", b"awsSecre", b"secret_", b"SECRET_", b"secretA", b"secretK"),
    *(b"SecretA", b"SecretK"),
    # a JSON object whose first name begins like a header parameter: alg cty enc jku kid typ x5t zip
    *(base64.b64encode(b'{"' + bytes([letter])) for letter in b"acejktxz"),
)
