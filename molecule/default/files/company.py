"""What the demo's company has in its Odoo before Mailroom comes (run by `odoo shell`)."""

from typing import Any

env: Any = globals()["env"]  # given by odoo shell
groups = "group_ids" if "group_ids" in env["res.users"]._fields else "groups_id"  # before 19

env["ir.config_parameter"].set_param("web.base.url", "https://10.77.0.69")
env.ref("base.main_company").write({"name": "Example Company", "email": "office@example.com"})
env.ref("base.user_admin").write({"email": "admin@example.com"})
salesperson = env["res.users"].search([("login", "=", "salesperson")]) or env["res.users"].create(
    {
        "name": "Salesperson",
        "login": "salesperson",
        "password": "salesperson",
        "email": "salesperson@example.com",
        "notification_type": "inbox",
        groups: [(4, env.ref("sales_team.group_sale_salesman_all_leads").id)],
    }
)
env.ref("sales_team.team_sales_department").write({"name": "Sales", "member_ids": [(4, salesperson.id)]})
if not env["project.project"].search([("name", "=", "Website")]):
    env["project.project"].create({"name": "Website"})
env.cr.commit()
