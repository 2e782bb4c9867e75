from demo.report import Report


def page(report: Report) -> str:
    return ""
