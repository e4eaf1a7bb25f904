"""Rights, roles, and settings of the whole server."""

from __future__ import annotations

from chanuka_ops.migrator.lint.checks.dropping import name_of
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World


def grant(node: Node, world: World, fx: Effects) -> None:
    """GRANT and REVOKE."""
    objects = ", ".join(name_of(item, world) for item in node.objects or ())
    if not node.is_grant:
        fx.hit("revoke-breaks", objects)
        return
    if any(role.roletype == "ROLESPEC_PUBLIC" for role in node.grantees or ()):
        rights = ", ".join(right.priv_name or "" for right in node.privileges or ()) or "do anything with"
        fx.hit("grant-public", objects, rights)


def role(node: Node, _: World, fx: Effects) -> None:
    """CREATE ROLE and ALTER ROLE."""
    name = node.role.rolename if isinstance(node.role, Node) else node.role
    fx.hit("role-changed", name or "")
    for option in node.options or ():
        secret = option.arg
        if (
            option.defname == "password"
            and isinstance(secret, str)
            and not secret.startswith(("SCRAM-SHA-256$", "md5"))
        ):
            fx.hit("password-in-script", name or "")


def role_setting(node: Node, _: World, fx: Effects) -> None:
    """ALTER ROLE … SET."""
    fx.hit("role-changed", node.role.rolename if node.role is not None else "all roles")


def default_privileges(_node: Node, _: World, fx: Effects) -> None:
    """ALTER DEFAULT PRIVILEGES."""
    fx.hit("default-privileges")


def alter_system(_node: Node, world: World, fx: Effects) -> None:
    """ALTER SYSTEM."""
    fx.hit("alter-system")
    if world.in_transaction:
        fx.hit("not-in-transaction", "", "ALTER SYSTEM")


CHECKS = {
    "GrantStmt": grant,
    "CreateRoleStmt": role,
    "AlterRoleStmt": role,
    "AlterRoleSetStmt": role_setting,
    "AlterDefaultPrivilegesStmt": default_privileges,
    "AlterSystemStmt": alter_system,
}
