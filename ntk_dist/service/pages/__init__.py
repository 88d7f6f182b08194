"""The pages that people see in a browser: jobs, models, and a form to try a model with.

:mod:`.routes` answers with shells that hold words and no data, so that anybody may load them:
``templates/`` has one for each page. The scripts in ``assets/`` fill them with what the routes
under ``/v1`` tell, and send the token that a person has typed in; it is kept by the tab of the
browser until that is closed, and is never part of an address. Scripts and styles come from here
only, and the browser is told so by the policy that goes with every page.
"""

from ntk_dist.service.pages.routes import router

__all__ = ["router"]
