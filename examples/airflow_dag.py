"""Score a table every night with Airflow 3; publish the scores only if they have not drifted, and send known labels."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

COLUMNS = "--prediction-column prediction --confidence-column confidence --id-column id"


class ModelExporter(BashOperator):
    """A command that is repeated, except after status 2 (invalid usage) and 3 (drift): the result would be the same."""

    def __init__(self, **arguments):
        again = {"retries": 5, "retry_delay": timedelta(minutes=5), "skip_on_exit_code": [2, 3]}
        super().__init__(**again, **arguments)

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise AirflowFailException("invalid usage or drift: another attempt would end the same") from None


with DAG(
    "loans",
    schedule="15 2 * * *",
    start_date=datetime(2026, 11, 1),  # in UTC
    catchup=False,
    max_active_runs=1,  # two runs at a time would share the state files
    default_args={"cwd": "/srv/loans"},
):
    score = BashOperator(task_id="score", bash_command="python score.py --out scores.parquet", retries=1)
    check = ModelExporter(
        task_id="check",
        bash_command=f"model-exporter ingest scores.parquet --profile loans.json --model loans --version 3 {COLUMNS} "
        "--push http://127.0.0.1:9091 --fail-on-drift",
    )
    publish = BashOperator(task_id="publish", bash_command="python publish.py scores.parquet")
    # Users can give feedback on these predictions. A retry continues where the attempt before it stopped.
    send = ModelExporter(
        task_id="send",
        bash_command="model-exporter ingest scores.parquet --exporter http://127.0.0.1:9877 --model loans --version 3 "
        f"{COLUMNS}",
    )
    label = ModelExporter(
        task_id="label",
        bash_command="model-exporter label repaid.csv --model loans --id-column loan --label-column repaid "
        "--time-column paid_on",
    )
    score >> check >> publish >> send >> label
