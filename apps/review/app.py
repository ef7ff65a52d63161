"""The script that Streamlit runs for every session and every click; see `apps.review.shell`."""

if __name__ == "__main__":  # worker processes import this file under another name, and have nothing to show
    from apps.review.shell import show

    show()
